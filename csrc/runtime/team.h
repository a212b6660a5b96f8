// A team of threads that share ranges of work, one range after the other.
//
// OpenMP starts and joins the threads; without OpenMP a team has threads of its own. Everything in between is done
// here. Each thread begins with its own stretch of the range, the same in every step, so it finds in its cache what it
// wrote before. It takes pieces from the front, half of what is left each time; a thread that has finished its stretch
// takes pieces from the ends of the others'. So any thread can finish a range alone, and a thread that the system
// suspends, because of other programs or because OpenMP grants fewer threads than requested, delays the rest only by
// its current piece. Where no team can be started, the caller works alone. All threads compute in the caller's
// floating-point state.
#pragma once

#include <cstdint>

namespace convlane {

// Calls body(object, begin, end, part) for pieces of [0, count).
struct SharedRange {
  std::int64_t count;
  int parts;   // maximum number of threads at work at once; each has its own `part`, a number below this
  int pieces;  // maximum number of pieces of a part; none is longer than ceil(count / parts)
  void (*body)(const void* object, std::int64_t begin, std::int64_t end, int part) noexcept;
  const void* object;
};

// Returns when the whole range is done, by the team that this thread leads or else by a team for this range alone.
void share_out(const SharedRange& range) noexcept;

// Calls lead(object) in this thread; everything it shares out goes to one team of `threads`, whose threads spin for a
// while between ranges and then sleep. Exceptions of lead() are passed on. Returns whether anything was shared out, or
// would have been had there been a team.
bool lead_team(int threads, void (*lead)(const void* object), const void* object);

template <class Lead>
bool lead_team(int threads, const Lead& lead) {
  return lead_team(threads, [](const void* object) { (*static_cast<const Lead*>(object))(); }, &lead);
}

// How long a thread spins for the next range, or for the others to finish this one.
void set_spin_microseconds(int time);
int spin_microseconds();

// For tests: with a seed other than 0, pieces of random sizes are taken in random order.
void shuffle_pieces(std::uint32_t seed);

}  // namespace convlane
