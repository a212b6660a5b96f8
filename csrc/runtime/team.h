// Threads that work together: ranges shared out between them, one after the other.
//
// OpenMP starts the threads and joins them, where there is OpenMP, else a team has threads of its own; what happens in
// between is ours. Each thread has a stretch of the range to
// begin with, the same in every step, where it finds what it wrote before in its own cache. It takes pieces of it from
// the front, half of what is left each time; whoever is done takes from the ends of the others' stretches. So any
// thread can finish a range alone, and one that the system puts aside, beside other programs or because OpenMP grants
// fewer than asked for, holds up the rest by the piece that it is at. Where no team can be had, the caller works alone.
// All of them compute in the caller's floating-point state.
#pragma once

#include <cstdint>

namespace convlane {

// Calls body(object, begin, end, part) for pieces of [0, count).
struct SharedRange {
  std::int64_t count;
  int parts;   // at most so many threads work at once, each with a `part` below it of its own
  int pieces;  // a part can be cut into as many; none is longer than ceil(count / parts)
  void (*body)(const void* object, std::int64_t begin, std::int64_t end, int part) noexcept;
  const void* object;
};

// Returns when all of it is done. By the team that this thread leads, else by one for this range alone.
void share_out(const SharedRange& range) noexcept;

// Calls lead(object) by this thread, in which all that is shared out goes to one team of `threads`: between ranges its
// threads spin for a while, and then sleep. What lead() throws is thrown. Returns whether anything was shared out, or
// would have been if there were a team.
bool lead_team(int threads, void (*lead)(const void* object), const void* object);

template <class Lead>
bool lead_team(int threads, const Lead& lead) {
  return lead_team(threads, [](const void* object) { (*static_cast<const Lead*>(object))(); }, &lead);
}

// How long a thread waits awake for the next range, or for the others to finish this one.
void set_spin_microseconds(int time);
int spin_microseconds();

// For tests: with a seed other than 0, pieces of random sizes are taken in a random order.
void shuffle_pieces(std::uint32_t seed);

}  // namespace convlane
