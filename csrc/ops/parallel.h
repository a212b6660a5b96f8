// How operations share their work: ranges processed by the team of runtime/team.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/team.h"
#include "runtime/threads.h"

namespace convlane {

// The number of threads worth starting for `work` multiply-adds (or moved floats). Starting a team takes microseconds;
// 64 Ki multiply-adds per thread are an estimate of what outweighs that, not a measurement.
inline int threads_for(std::int64_t work, int limit = num_threads()) {
  constexpr std::int64_t kWorkPerThread = 1 << 16;
  return static_cast<int>(std::clamp<std::int64_t>(work / kWorkPerThread, 1, limit));
}

// The maximum number of pieces that a part is cut into: shorter pieces let the last thread finish sooner. A body that
// recomputes results at the borders of its pieces takes its parts whole.
constexpr int kPieces = 8, kWhole = 1;

// Calls body(begin, end, part) for contiguous pieces of [0, count), concurrently or one after the other, with at most
// min(threads, count) threads. `part` is below that number, and only one thread at a time works with it, so scratch is
// laid out by part. A piece is no longer than ceil(count / that number). Results must not depend on how the range is
// cut. The body must not throw: an exception cannot leave a thread.
template <class Body>
void parallel_for(std::int64_t count, int threads, const Body& body, int pieces = kPieces) {
  static_assert(noexcept(body(count, count, 0)), "declare the body noexcept and allocate before the region");
  const int parts = static_cast<int>(std::min<std::int64_t>(threads, count));
  if (parts == 1) return body(0, count, 0);
  if (parts < 1) return;
  share_out({count, parts, pieces,
             [](const void* object, std::int64_t begin, std::int64_t end, int part) noexcept {
               (*static_cast<const Body*>(object))(begin, end, part);
             },
             &body});
}

// Goes through rows [begin, end) of images of `height` rows each, in bands of at most `rows` that lie within one image:
// body(image, first row within it, count).
template <class Body>
void for_bands(std::int64_t begin, std::int64_t end, std::int64_t height, std::int64_t rows, const Body& body) {
  while (begin < end) {
    const std::int64_t first = begin % height, count = std::min({rows, end - begin, height - first});
    body(begin / height, first, count);
    begin += count;
  }
}

}  // namespace convlane
