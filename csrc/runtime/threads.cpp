#include "runtime/threads.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace convlane {
namespace {

std::atomic<int> process_count{0};
std::atomic<bool> forked{false};
#ifdef __linux__
// At load, not at the first call: another library may start OpenMP's workers, and the process fork, before that.
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
#endif
thread_local int thread_override = 0;

int affinity_cpus() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

// Quota over period of cgroup v2 (cpu.max) or v1, rounded up; 0 when there is none.
int cgroup_cpus() {
  std::string quota;
  double period = 0;
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  if (!(v2 >> quota >> period)) {
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  }
  const double limit = std::atof(quota.c_str());  // "max" reads as 0
  return limit > 0 && period > 0 ? std::max(1, static_cast<int>(std::ceil(limit / period))) : 0;
}

int environment_count() {
  const char* text = std::getenv("CONVLANE_NUM_THREADS");
  return text != nullptr ? std::max(0, std::atoi(text)) : 0;
}

const int from_environment = environment_count();
std::atomic<int> cpus{0};  // once found

int default_count() {
  if (from_environment > 0) return from_environment;
#ifdef _OPENMP
  if (cpus.load() == 0) cpus.store(available_cpus());
  return std::min(cpus.load(), omp_get_max_threads());  // follows OMP_NUM_THREADS and threadpoolctl
#else
  return 1;
#endif
}

}  // namespace

int available_cpus() {
  const int affinity = affinity_cpus(), quota = cgroup_cpus();
  return std::max(1, quota > 0 ? std::min(affinity, quota) : affinity);
}

int num_threads() {
  if (forked.load(std::memory_order_relaxed)) return 1;
  if (thread_override > 0) return thread_override;
  const int process = process_count.load(std::memory_order_relaxed);
  return process > 0 ? process : default_count();
}

void set_num_threads(int count) { process_count.store(count); }

int exchange_thread_override(int count) {
  const int before = thread_override;
  thread_override = count;
  return before;
}

}  // namespace convlane
