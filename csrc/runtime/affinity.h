// On which CPU a thread of a team runs: not on its leader's.
//
// Schedulers wake a thread where the one that wakes it runs, or leave two of a team on one CPU beside another that a
// stranger keeps busy: since each of the two waits for the other half of the time, nothing looks out of balance. So the
// thread moves by itself, through its affinity, which it has back when it leaves the team. Only on Linux.
#pragma once

#include <atomic>

#ifdef __linux__
#include <sched.h>
#endif

namespace convlane {

// That the calling thread is on; -1 where the system does not tell.
int current_cpu() noexcept;

class Affinity {
 public:
  // By the thread itself: it may be moved from now on, if it can have a CPU for each of so many threads. Returns
  // whether it may.
  bool enter(int threads) noexcept;
  // By the thread, after enter(): goes on on another CPU, and does not come back to this one.
  void avoid(int cpu) noexcept;
  // By any thread, while it is sure that this one does not end: it goes on on this CPU. Nothing happens before enter().
  void pin(int cpu) noexcept;
  // By the thread: all its CPUs are open to it again, and nobody moves it any more.
  void leave() noexcept;

 private:
#ifdef __linux__
  static constexpr pid_t kBeingPinned = -1;  // leave() waits for the end of it, or would be undone by it

  std::atomic<pid_t> thread_{0};  // 0: has not entered
  cpu_set_t usual_;
#endif
};

}  // namespace convlane
