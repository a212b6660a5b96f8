// The sizes of this machine's caches: the one source of budgets for data that should stay in one of them.
//
// The sizes are detected once, at load, and set at most once more before anything is computed (CONVLANE_CACHES): a run
// must use the sizes by which its memory was reserved, and the order of some sums depends on them.
#pragma once

#include <cstdint>

namespace convlane {

// Bytes. The first two levels belong to one core; the third is the last level, which cores share, or the second where
// there is none.
struct Caches {
  std::int64_t first, second, third;
};

const Caches& caches();

// std::invalid_argument unless each is at least 1 KB and no smaller than the level before.
void set_caches(const Caches& sizes);

// The number of floats that fill a fraction of a core's second-level cache, and of the last level.
inline std::int64_t second_level_floats(std::int64_t parts) {
  return caches().second / (parts * static_cast<std::int64_t>(sizeof(float)));
}
inline std::int64_t third_level_floats(std::int64_t parts) {
  return caches().third / (parts * static_cast<std::int64_t>(sizeof(float)));
}

}  // namespace convlane
