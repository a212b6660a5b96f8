// Keeps the threads of a team off their leader's CPU.
//
// A scheduler may wake a thread on the CPU of the thread that wakes it, or leave two threads of a team on one CPU while
// another program keeps the next one busy: since each of the two waits half of the time, the load looks balanced. So a
// thread moves itself by changing its affinity, which is restored when it leaves the team. Only on Linux.
#pragma once

#include <atomic>

#ifdef __linux__
#include <sched.h>
#endif

namespace convlane {

// The CPU that the calling thread is on; -1 where the system does not say.
int current_cpu() noexcept;

class Affinity {
 public:
  // Called by the thread itself: from now on it may be moved, provided it may use at least `threads` CPUs. Returns
  // whether it may be moved.
  bool enter(int threads) noexcept;
  // Called by the thread after enter(): it continues on another CPU and does not return to `cpu`.
  void avoid(int cpu) noexcept;
  // Called by any thread while this object's thread is certain not to end: moves that thread to `cpu`. Does nothing
  // before enter().
  void pin(int cpu) noexcept;
  // Called by the thread: restores its affinity; from then on no other thread moves it.
  void leave() noexcept;

 private:
#ifdef __linux__
  static constexpr pid_t kBeingPinned = -1;  // leave() waits until this is over, or pin() would undo it

  std::atomic<pid_t> thread_{0};  // 0: has not entered
  cpu_set_t usual_;
#endif
};

}  // namespace convlane
