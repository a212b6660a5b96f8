// The one place where threads start: a static split of a range over an OpenMP team.
#pragma once

#include <algorithm>
#include <cstdint>

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

// Calls body(begin, end, thread) for contiguous parts of [0, count), thread < threads. Which part falls to which
// thread must not change results. The body must not throw: an exception cannot leave a parallel region.
template <class Body>
void parallel_for(std::int64_t count, int threads, const Body& body) {
  static_assert(noexcept(body(count, count, 0)), "declare the body noexcept and allocate before the region");
  threads = static_cast<int>(std::min<std::int64_t>(threads, count));
#ifdef _OPENMP
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      const int team = omp_get_num_threads(), thread = omp_get_thread_num();
      body(count * thread / team, count * (thread + 1) / team, thread);
    }
    return;
  }
#endif
  if (count > 0) body(std::int64_t{0}, count, 0);
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
