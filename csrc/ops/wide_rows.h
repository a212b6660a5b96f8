// Rows of few channels side by side, so that they fill whole vectors.
#pragma once

#include <cstdint>

namespace convlane {

// How many rows of `channels` are joined into one wide row, with the channels' factors repeated.
inline std::int64_t rows_together(std::int64_t channels) {
  constexpr std::int64_t kWide = 64;
  std::int64_t rows = 1;
  while (channels > 0 && channels < kWide && (rows * channels < kWide || rows * channels % 16 != 0) && rows < kWide)
    rows *= 2;
  return rows;
}

}  // namespace convlane
