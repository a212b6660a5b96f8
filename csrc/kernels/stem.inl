// The matrix product for the first layers of networks: sums of a few dozen products, on which the general kernel would
// spend much of its time handling pointers to the taps of each row, prefetching, and skipping taps.
#pragma once

#include "kernels/gemm.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// Long sums are sums of blocks here as well.
template <int Rows, int Vectors>
void stem_tile(const StemArgs& g, int64_t row, int64_t column, const float* weight) {
  const int64_t n = g.n - column;
  float* dst = g.dst + row * g.dst_stride + column;
  Vec sum[Rows][Vectors];
  begin_sums<Rows, Vectors>(sum, g.epilogue.bias, column, n);
  const float* src[Rows];
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) src[i] = g.rows[row + i];
  const int64_t steps = g.tap_count * g.depth, most = steps > kLongSum ? kSumBlock : steps;
  int64_t left = most;  // products until the sums are stored
  bool stored = false;
  for (int64_t tap = 0; tap < g.tap_count; ++tap) {
    for (int64_t k = g.taps[tap], tap_end = k + g.depth; k < tap_end;) {
      if (left == 0) {
        if (stored) add_stored<Rows, Vectors>(sum, dst, g.dst_stride, n);
        store_sums<Rows, Vectors>(sum, dst, g.dst_stride, n);
        stored = true;
        left = most;
      }
      const int64_t end = k + (tap_end - k < left ? tap_end - k : left);
      left -= end - k;
      for (; k < end; ++k, weight += Vectors * kLanes) {
        Vec w[Vectors];
        CONVLANE_UNROLL
        for (int v = 0; v < Vectors; ++v) w[v] = load(weight + v * kLanes);
        CONVLANE_UNROLL
        for (int i = 0; i < Rows; ++i) {
          const Vec x = broadcast(src[i][k]);
          CONVLANE_UNROLL
          for (int v = 0; v < Vectors; ++v) sum[i][v] = fma(x, w[v], sum[i][v]);
        }
      }
    }
  }
  if (stored) add_stored<Rows, Vectors>(sum, dst, g.dst_stride, n);
  finish_tile<Rows, Vectors>(sum, g.epilogue, row, column, dst, g.dst_stride, n);
}

template <int Vectors, int Rows = Vectors == 1 ? kNarrowRows : kGemmRows>
CONVLANE_INLINE void stem_tile_of(int64_t rows, const StemArgs& g, int64_t row, int64_t column, const float* weight) {
  if (rows == Rows) return stem_tile<Rows, Vectors>(g, row, column, weight);
  if constexpr (Rows > 1) stem_tile_of<Vectors, Rows - 1>(rows, g, row, column, weight);
}

// One panel for the rows of a block, split evenly.
template <int Vectors>
void stem_panel(const StemArgs& g, int64_t first, int64_t count, int64_t column, const float* weight) {
  constexpr int64_t kMost = Vectors == 1 ? kNarrowRows : kGemmRows;
  const int64_t tiles = (count + kMost - 1) / kMost;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t begin = count * tile / tiles, end = count * (tile + 1) / tiles;
    stem_tile_of<Vectors>(end - begin, g, first + begin, column, weight);
  }
}

// In blocks of this many rows a panel of weights is reused often while the block's input and result stay in the
// first-level cache. An estimate.
void stem(const StemArgs& g) {
  constexpr int64_t kBlock = 8 * kGemmRows;
  const int64_t steps = g.tap_count * g.depth;
  for (int64_t first = 0; first < g.m; first += kBlock) {
    const int64_t count = g.m - first < kBlock ? g.m - first : kBlock;
    const float* panel = g.weight;
    for (int64_t column = 0; column < g.n; column += kGemmColumns) {
      const bool narrow = g.n - column <= kLanes;
      if (narrow)
        stem_panel<1>(g, first, count, column, panel);
      else
        stem_panel<kGemmVectors>(g, first, count, column, panel);
      panel += steps * (narrow ? kLanes : kGemmColumns);
    }
  }
}

}  // namespace
}  // namespace convlane
