#include "runtime/affinity.h"

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace convlane {

#ifdef __linux__

int current_cpu() noexcept { return sched_getcpu(); }

bool Affinity::enter(int threads) noexcept {
  if (thread_.load(std::memory_order_relaxed) != 0) return true;
  if (sched_getaffinity(0, sizeof(usual_), &usual_) != 0 || CPU_COUNT(&usual_) < threads) return false;
  thread_.store(static_cast<pid_t>(syscall(SYS_gettid)), std::memory_order_release);
  return true;
}

void Affinity::avoid(int cpu) noexcept {
  cpu_set_t others = usual_;
  CPU_CLR(cpu, &others);
  sched_setaffinity(0, sizeof(others), &others);
}

void Affinity::pin(int cpu) noexcept {
  pid_t thread = thread_.load(std::memory_order_acquire);
  if (thread <= 0 || cpu < 0 || !CPU_ISSET(cpu, &usual_)) return;
  if (!thread_.compare_exchange_strong(thread, kBeingPinned, std::memory_order_acquire)) return;
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(cpu, &only);
  sched_setaffinity(thread, sizeof(only), &only);
  thread_.store(thread, std::memory_order_release);
}

void Affinity::leave() noexcept {
  pid_t thread = thread_.load(std::memory_order_acquire);
  if (thread == 0) return;
  while (thread == kBeingPinned || !thread_.compare_exchange_weak(thread, 0, std::memory_order_acquire)) {
    sched_yield();
    thread = thread_.load(std::memory_order_acquire);
  }
  sched_setaffinity(0, sizeof(usual_), &usual_);
}

#else

int current_cpu() noexcept { return -1; }
bool Affinity::enter(int) noexcept { return false; }
void Affinity::avoid(int) noexcept {}
void Affinity::pin(int) noexcept {}
void Affinity::leave() noexcept {}

#endif

}  // namespace convlane
