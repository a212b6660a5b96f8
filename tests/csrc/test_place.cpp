// A thread leaves a CPU, is brought to one, and has all of its own back; what has not entered stays where it is.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "runtime/place.h"

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
  convlane::Place place;
  const int first = convlane::current_cpu();
  require(!place.enter(CPU_COUNT(&usual) + 1), "entered with fewer CPUs than threads");
  place.bring(first);
  const cpu_set_t untouched = own_cpus();
  require(CPU_EQUAL(&untouched, &usual), "brought what had not entered");
  require(place.enter(2) && place.enter(2), "did not enter");
  place.avoid(first);
  require(convlane::current_cpu() != first, "is still there");
  std::atomic<bool> brought{false};
  std::thread other([&] {
    place.bring(first);
    brought.store(true);
  });
  while (!brought.load()) std::this_thread::yield();
  require(convlane::current_cpu() == first, "is not there");
  other.join();
  place.leave();
  const cpu_set_t after = own_cpus();
  require(CPU_EQUAL(&after, &usual), "does not have its CPUs back");
}

// Who is brought while it leaves has its CPUs back all the same.
void leave_while_brought(const cpu_set_t& usual) {
  convlane::Place place;
  std::atomic<bool> ended{false};
  std::thread other([&] {
    while (!ended.load()) place.bring(0);
  });
  for (int run = 0; run < 20000; ++run) {
    require(place.enter(2), "did not enter");
    place.leave();
    const cpu_set_t after = own_cpus();
    require(CPU_EQUAL(&after, &usual), "was brought after it had left");
  }
  ended.store(true);
  other.join();
}

}  // namespace

int main() {
  const cpu_set_t usual = own_cpus();
  std::thread(move, usual).join();
  std::thread(leave_while_brought, usual).join();
  return 0;
}
