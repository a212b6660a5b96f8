// How operations share their work out: ranges that the team of runtime/team.h goes through.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/team.h"
#include "runtime/threads.h"

namespace convlane {

// Threads worth starting for `work` multiply-adds (or moved floats). Starting a team takes microseconds; 64 Ki
// multiply-adds for each thread are an estimate of what outweighs that, not a measurement.
inline int threads_for(std::int64_t work, int limit = num_threads()) {
  constexpr std::int64_t kWorkPerThread = 1 << 16;
  return static_cast<int>(std::clamp<std::int64_t>(work / kWorkPerThread, 1, limit));
}

// Into how many pieces a part is cut at most: the shorter they are, the sooner the last thread is done. A body that
// computes at the borders of its pieces what another one computes, too, takes its parts whole.
constexpr int kPieces = 8, kWhole = 1;

// Calls body(begin, end, part) for contiguous pieces of [0, count), at the same time or one after the other, by
// min(threads, count) threads at most. Scratch is laid out by part, which is less than that: only one thread at a time
// is at work with it. A piece is no longer than ceil(count / that number). How the range is cut must not change
// results. The body must not throw: an exception cannot leave a thread.
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
