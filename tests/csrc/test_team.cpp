// Several threads lead teams at once: every index of every range is visited once, whatever the sizes.
// With an argument, the program does so after a fork, too, in the child.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "ops/parallel.h"

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

void share(std::int64_t count, int threads, int pieces) {
  std::vector<int> met(static_cast<std::size_t>(count));
  std::vector<std::atomic<int>> at_work(static_cast<std::size_t>(threads));
  const std::int64_t longest = (count + threads - 1) / threads;
  convlane::parallel_for(
      count, threads,
      [&](std::int64_t begin, std::int64_t end, int part) noexcept {
        require(at_work[part].fetch_add(1) == 0, "two threads have one part");
        require(count < threads || end - begin <= longest, "a piece is too long");
        for (std::int64_t i = begin; i < end; ++i) ++met[i];
        convlane::parallel_for(4, 2, [](std::int64_t, std::int64_t, int) noexcept {});  // alone
        at_work[part].fetch_sub(1);
      },
      pieces);
  for (const int times : met) require(times == 1, "not met once");
}

void lead(int seed) {
  for (int threads = 1; threads <= 3; ++threads)
    for (int round = 0; round < 1; ++round)
      convlane::lead_team(threads, [&] {
        for (int step = 0; step < 8; ++step)
          share((seed * 131 + step * 37 + round) % 200, 1 + (step + seed) % 6, 1 + step % 8);
      });
}

}  // namespace

int main(int arguments, char**) {
  for (const unsigned shuffled : {0u, 7u}) {
    convlane::shuffle_pieces(shuffled);
    std::vector<std::thread> leaders;
    for (int seed = 0; seed < 2; ++seed) leaders.emplace_back(lead, seed);
    for (std::thread& leader : leaders) leader.join();
    convlane::set_spin_microseconds(0);
  }
  bool thrown = false;
  try {
    convlane::lead_team(2, [] { throw std::runtime_error("within a run"); });
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  require(thrown, "an exception was lost");
  lead(3);
  if (arguments == 1) return 0;
  const pid_t child = fork();
  if (child == 0) {
    alarm(30);
    share(100, convlane::num_threads(), 4);
    std::exit(0);
  }
  int status = -1;
  return waitpid(child, &status, 0) == child ? status : 1;
}
