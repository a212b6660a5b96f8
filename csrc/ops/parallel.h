// The one place where threads start: a static split of a range over an OpenMP team.
//
// OpenMP may grant fewer threads than asked for (OMP_THREAD_LIMIT, OMP_DYNAMIC, a region of another library around the
// call), so nothing is laid out by the team: a range has as many parts as threads were asked for, and the team works
// through them. Where no team can be had, the caller does. All of them compute in the caller's floating-point state.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/float_state.h"
#include "runtime/threads.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace convlane {

// Threads worth starting for `work` multiply-adds (or moved floats). Starting a team takes microseconds; 64 Ki
// multiply-adds for each thread are an estimate of what outweighs that, not a measurement.
inline int threads_for(std::int64_t work, int limit = num_threads()) {
  constexpr std::int64_t kWorkPerThread = 1 << 16;
  return static_cast<int>(std::clamp<std::int64_t>(work / kWorkPerThread, 1, limit));
}

// Calls body(begin, end, part) for min(threads, count) contiguous parts of [0, count), which run at the same time or
// one after the other; part < threads is what scratch is laid out by. How many parts there are must not change results.
// The body must not throw: an exception cannot leave a parallel region.
template <class Body>
void parallel_for(std::int64_t count, int threads, const Body& body) {
  static_assert(noexcept(body(count, count, 0)), "declare the body noexcept and allocate before the region");
  const int parts = static_cast<int>(std::min<std::int64_t>(threads, count));
  const auto run = [&](int first, int step) noexcept {
    for (int part = first; part < parts; part += step) body(count * part / parts, count * (part + 1) / parts, part);
  };
#ifdef _OPENMP
  if (parts > 1 && can_have_team(parts)) {
    const FloatState caller;
#pragma omp parallel num_threads(parts)
    {
      const BorrowedFloatState borrowed(caller);
      run(omp_get_thread_num(), omp_get_num_threads());
    }
    return;
  }
#endif
  run(0, 1);
}

// Goes through rows [begin, end) of images of `height` rows each, in bands of at most `rows` that lie within one image:
// body(image, first row in it, count).
template <class Body>
void for_bands(std::int64_t begin, std::int64_t end, std::int64_t height, std::int64_t rows, const Body& body) {
  while (begin < end) {
    const std::int64_t first = begin % height, count = std::min({rows, end - begin, height - first});
    body(begin / height, first, count);
    begin += count;
  }
}

}  // namespace convlane
