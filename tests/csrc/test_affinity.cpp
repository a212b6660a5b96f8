// A thread leaves a CPU, is pinned to another, and may then use all its CPUs again; other threads stay where they are.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "runtime/affinity.h"

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

cpu_set_t own_cpus() {
  cpu_set_t cpus;
  require(sched_getaffinity(0, sizeof(cpus), &cpus) == 0, "the system does not tell the CPUs");
  return cpus;
}

void move(const cpu_set_t& usual) {
  convlane::Affinity affinity;
  const int first = convlane::current_cpu();
  require(!affinity.enter(CPU_COUNT(&usual) + 1), "entered with fewer CPUs than threads");
  affinity.pin(first);
  const cpu_set_t untouched = own_cpus();
  require(CPU_EQUAL(&untouched, &usual), "pinned what had not entered");
  require(affinity.enter(2) && affinity.enter(2), "did not enter");
  affinity.avoid(first);
  require(convlane::current_cpu() != first, "is still there");
  std::atomic<bool> pinned{false};
  std::thread other([&] {
    affinity.pin(first);
    pinned.store(true);
  });
  while (!pinned.load()) std::this_thread::yield();
  require(convlane::current_cpu() == first, "is not there");
  other.join();
  affinity.leave();
  const cpu_set_t after = own_cpus();
  require(CPU_EQUAL(&after, &usual), "does not have its CPUs back");
}

// A thread that is pinned while it leaves may use all its CPUs again, too.
void leave_while_pinned(const cpu_set_t& usual) {
  convlane::Affinity affinity;
  std::atomic<bool> ended{false};
  std::thread other([&] {
    while (!ended.load()) affinity.pin(0);
  });
  for (int run = 0; run < 20000; ++run) {
    require(affinity.enter(2), "did not enter");
    affinity.leave();
    const cpu_set_t after = own_cpus();
    require(CPU_EQUAL(&after, &usual), "was pinned after it had left");
  }
  ended.store(true);
  other.join();
}

}  // namespace

int main() {
  const cpu_set_t usual = own_cpus();
  std::thread(move, usual).join();
  std::thread(leave_while_pinned, usual).join();
  return 0;
}
