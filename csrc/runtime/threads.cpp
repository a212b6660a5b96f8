// Thread counts, and trial starts that show whether a team of some size can be started.
#include "runtime/threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/cpus.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace convlane {
namespace {

std::atomic<int> process_count{0}, default_count{0};  // 0: not set
std::atomic<bool> forked{false};
#ifdef __linux__
// At load, not at the first call: another library may start OpenMP's workers, and the process may fork, before that.
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
#endif
thread_local int thread_override = 0;
#ifndef _OPENMP
constexpr long kMostThreads = 1024;  // as in runtime.py
#endif

#ifndef _OPENMP
// The first number in OMP_NUM_THREADS, which may be a list; 0 where it is unset or invalid.
int omp_num_threads() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  const long count = text == nullptr ? 0 : std::strtol(text, nullptr, 10);
  return count < 1 || count > kMostThreads ? 0 : static_cast<int>(count);
}
#endif

int machine_count() {
#ifdef _OPENMP
  return std::min(usual_cpus(), omp_get_max_threads());  // follows OMP_NUM_THREADS and threadpoolctl
#else
  static const int asked = omp_num_threads();
  return asked > 0 ? std::min(usual_cpus(), asked) : usual_cpus();
#endif
}

#ifdef _OPENMP

long thread_id() {
#ifdef __linux__
  return syscall(SYS_gettid);
#else
  return 0;
#endif
}

// The system still counts a thread for a moment after it has been joined.
void await_end([[maybe_unused]] const std::vector<long>& ids) {
#ifdef __linux__
  for (const long id : ids)
    while (id != 0 && syscall(SYS_tgkill, getpid(), id, 0) == 0) std::this_thread::yield();
#endif
}

// Starts `count` threads that are alive at the same time, and ends them.
bool can_start(int count) {
  std::vector<std::thread> threads;
  std::vector<long> ids;
  std::mutex gate;
  gate.lock();
  bool all = true;
  try {
    ids.resize(static_cast<std::size_t>(count));
    threads.reserve(ids.size());
    for (long& id : ids)
      threads.emplace_back([&] {
        id = thread_id();
        const std::lock_guard<std::mutex> wait(gate);
      });
  } catch (const std::exception&) {  // std::system_error, std::bad_alloc
    all = false;
  }
  gate.unlock();
  for (std::thread& thread : threads) thread.join();
  await_end(ids);
  return all;
}

// What the calling thread has learnt from trials.
struct Trials {
  using Clock = std::chrono::steady_clock;
  static constexpr int kNone = std::numeric_limits<int>::max();
  static constexpr std::chrono::seconds kHolds{1};

  int granted = 1, refused = kNone;  // the largest team that was granted and the smallest that was refused
  Clock::time_point until{};

  bool grant(int count) {
    if (const auto now = Clock::now(); now >= until) *this = {1, kNone, now + kHolds};
    // One more thread than the team needs: its stack leaves memory for OpenMP's own bookkeeping.
    if (count > granted && count < refused) (can_start(count) ? granted : refused) = count;
    return count <= granted;
  }
};

#endif

}  // namespace

#ifdef _OPENMP
bool can_have_team(int count) {
  thread_local int last = 1;  // the size of the team that OpenMP keeps for this thread, until a smaller region
  thread_local Trials trials;
  if (in_forked_child() || omp_in_parallel() || (count > last && !trials.grant(count))) return false;
  last = count;
  return true;
}
#endif

bool in_forked_child() { return forked.load(std::memory_order_relaxed); }

int available_cpus() { return usable_cpus(allowed_cpus()); }

int usual_cpus() {
  static std::atomic<int> cpus{0};
  if (cpus.load(std::memory_order_relaxed) == 0) cpus.store(available_cpus(), std::memory_order_relaxed);
  return cpus.load(std::memory_order_relaxed);
}

int num_threads() {
  if (in_forked_child()) return 1;
  if (thread_override > 0) return thread_override;
  for (const std::atomic<int>* set : {&process_count, &default_count})
    if (const int count = set->load(std::memory_order_relaxed); count > 0) return count;
  return machine_count();
}

void set_num_threads(int count) { process_count.store(count); }
void set_default_threads(int count) { default_count.store(count); }

int exchange_thread_override(int count) {
  const int before = thread_override;
  thread_override = count;
  return before;
}

}  // namespace convlane
