// Register tiles of a matrix product whose rows are pixels near padding: split so that a tile skips the taps that all
// of its pixels see in the padding. With dilation 24 on a map of 33 x 33 that is 73 of 100 taps.
#pragma once

#include <algorithm>
#include <bitset>
#include <cstdint>

#include "ops/view.h"

namespace convlane {

class PaddingTiles {
 public:
  using Taps = std::uint64_t;  // one bit per tap
  static constexpr int64_t kMostTaps = 64;

  struct Memory {
    Taps* seen;      // one for each row
    int64_t* tiles;  // one for each row, and one more
  };

  // From pointers rows[tap * count + i]; at most `most` rows fit a tile.
  PaddingTiles(const float* const* rows, int64_t taps, int64_t count, const float* zeros, int64_t most,
               Memory memory) noexcept
      : most_(most), seen_(memory.seen), tiles_(memory.tiles) {
    for (int64_t i = 0; i < count; ++i) seen_[i] = 0;
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t i = 0; i < count; ++i) seen_[i] |= Taps{rows[tap * count + i] != zeros} << tap;
    cut(count);
    const int64_t even = ceil_div(count, most);
    int64_t cut_cost = 0, even_cost = 0;
    for (int64_t t = 0; t < count_; ++t) cut_cost += cost(tiles_[t], tiles_[t + 1]);
    for (int64_t t = 0; t < even; ++t) even_cost += cost(count * t / even, count * (t + 1) / even);
    is_better_ = 32 * cut_cost < 31 * even_cost;  // than an even split, by a margin that makes it worthwhile
  }

  bool is_better() const { return is_better_; }
  const int64_t* begins() const { return tiles_; }
  int64_t count() const { return count_; }

 private:
  // Goes through runs of rows that see the same taps; each run joins the ones before it or begins new tiles, whichever
  // costs less.
  void cut(int64_t count) {
    int64_t begin = 0, end = 0, sum = 0;  // of the tiles that may still grow
    Taps all = 0;
    const auto close = [&] {
      const int64_t parts = ceil_div(end - begin, most_);
      for (int64_t t = 0; t < parts; ++t) tiles_[count_++] = begin + (end - begin) * t / parts;
    };
    for (int64_t i = 0, next = 0; i < count; i = next) {
      for (next = i + 1; next < count && seen_[next] == seen_[i];) ++next;
      const int64_t joined = steps(next - begin, all | seen_[i]), alone = steps(next - i, seen_[i]);
      if (end > begin && joined > sum + alone) {
        close();
        begin = i;
        all = 0;
      }
      end = next;
      all |= seen_[i];
      sum = steps(end - begin, all);
    }
    close();
    tiles_[count_] = count;
  }

  // The cost of this many rows that see these taps, in tiles of equal size; fewer than half a tile are no faster.
  int64_t steps(int64_t rows, Taps taps) const {
    const int64_t parts = ceil_div(rows, most_);
    return std::max(rows, parts * ceil_div(most_, 2)) * static_cast<int64_t>(std::bitset<kMostTaps>(taps).count());
  }

  int64_t cost(int64_t begin, int64_t end) const {
    Taps taps = 0;
    for (int64_t i = begin; i < end; ++i) taps |= seen_[i];
    return steps(end - begin, taps);
  }

  int64_t most_;
  Taps* seen_;      // taps that a row sees in the image
  int64_t* tiles_;  // where the tiles begin, and the end
  int64_t count_ = 0;
  bool is_better_;
};

}  // namespace convlane
