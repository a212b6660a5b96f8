// The matrix product under pointwise, direct and im2col convolution and under the linear layer.
//
// A register tile of up to kGemmRows x (kGemmVectors * lanes) sums stays in registers over the whole depth: per step
// one broadcast per row and kGemmVectors loads of packed weights feed kGemmRows * kGemmVectors multiply-adds.
// Every sum runs over tap and depth in order, whatever the tile, so results do not depend on how rows are grouped. Long
// sums are sums of blocks, which begin at the same products however the depth is divided into taps and whichever taps
// are skipped because they meet zeros.
#pragma once

#include "kernels/activation.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// Sums + weights + one broadcast fit the register file. 14 divides the usual map widths 14, 28, 56, 112, 224.
constexpr int kGemmVectors = 2;
constexpr int kGemmRows = kRegisters == 32 ? 14 : kLanes == 8 ? 6 : 4;
constexpr int kGemmColumns = kGemmVectors * kLanes;
// For a tile one vector wide. Each sum waits four cycles for the one before, so six in flight would leave a quarter of
// the slots idle.
constexpr int kNarrowRows = kRegisters == 32 ? kGemmRows : 12;

// Sums of more products than kLongSum are sums of blocks of kSumBlock, each added up by itself. A single sum of 65536
// products of one sign had 21 times torch's error, in blocks 0.7 times. The longest sums of ResNet and VGG before their
// linear layers have 4608 products.
constexpr int64_t kLongSum = 4608, kSumBlock = 1024;

// Lanes of vector v that hold real columns when `n` are left.
CONVLANE_INLINE int lanes_of(int64_t n, int v) {
  const int64_t left = n - v * kLanes;
  return static_cast<int>(left >= kLanes ? kLanes : left > 0 ? left : 0);
}

// Weights that a tile prefetches while it computes: the lines at `weight`, which advances by `step` at each step of the
// depth.
struct Ahead {
  const float* weight;
  int64_t step;
};
constexpr int kLineFloats = 16;

// The tiles of a column of panels divide the prefetching of the next panel among them: hardware prefetchers fall behind
// where a step of 14 x 2 products separates two lines. 16 rows x 256 deep with weights from memory: 131 to 220 GFLOP/s,
// with weights in cache 222 (EPYC Zen 5, 2026-11-21). A few rows are a mere stream, which the hardware prefetches best.
// Nothing beyond the weights is prefetched: on unmapped memory each attempt walks the page table in vain, 110 ns in a
// virtual machine, and AlexNet's second layer took 30 ms instead of 12 (EPYC Zen 1, 2026-11-26). At the last panel the
// tiles prefetch the beginning of their own, which is in the cache.
CONVLANE_INLINE Ahead next_panel(const GemmArgs& g, const float* panel, int64_t width, int64_t tiles) {
  constexpr int64_t kFewRows = 6;
  const int64_t steps = g.taps * g.depth;
  const float* next = panel + steps * width;  // the corresponding part of it
  if (next >= g.weight_end) return {panel, 0};
  const int64_t next_width = std::int64_t{g.weight_end - next} < steps * width ? kLanes : width;
  const int64_t step = g.m < kFewRows ? 0 : next_width / tiles;
  // Each step prefetches as much as it reads. Where its share is less, the last step would reach beyond the next panel.
  const int64_t beyond = width - kLineFloats;
  return {step > beyond ? next : next - beyond, step};
}

// Fetches where the sums will be stored, if rows lie apart, as those of a phase of a transposed convolution do:
// hardware prefetchers see no stream in them, and the stores of a tile would wait one after the other. 128 -> 64
// channels at 128x128, 2x2 with stride 2: 12.3 to 11.1 ms. Where rows are dense it cost up to 3 % (Xeon Cascade Lake,
// 2026-11-27).
template <int Rows, int Vectors>
CONVLANE_INLINE void fetch_output(const GemmArgs& g, const float* dst, int64_t n) {
  if (g.dst_stride < 2 * g.n) return;
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) {
    CONVLANE_UNROLL
    for (int line = 0; line < Vectors * kLanes; line += kLineFloats)
      if (line < n) __builtin_prefetch(dst + i * g.dst_stride + line, 1, 3);
  }
}

// Adds what dst holds to the sums.
template <int Rows, int Vectors>
CONVLANE_INLINE void add_stored(Vec (&sum)[Rows][Vectors], const float* dst, int64_t dst_stride, int64_t n) {
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) {
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v)
      sum[i][v] = add(load(dst + i * dst_stride + v * kLanes, lanes_of(n, v)), sum[i][v]);
  }
}

// Stores the sums and starts new ones.
template <int Rows, int Vectors>
CONVLANE_INLINE void store_sums(Vec (&sum)[Rows][Vectors], float* dst, int64_t dst_stride, int64_t n) {
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) {
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      if (const int lanes = lanes_of(n, v)) store(dst + i * dst_stride + v * kLanes, sum[i][v], lanes);
      sum[i][v] = zero();
    }
  }
}

// Starts the sums with the bias of `n` columns from `column` on.
template <int Rows, int Vectors>
CONVLANE_INLINE void begin_sums(Vec (&sum)[Rows][Vectors], const float* bias, int64_t column, int64_t n) {
  CONVLANE_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    const Vec start = bias == nullptr         ? zero()
                      : n >= Vectors * kLanes ? load(bias + column + v * kLanes)
                                              : load(bias + column + v * kLanes, lanes_of(n, v));
    CONVLANE_UNROLL
    for (int i = 0; i < Rows; ++i) sum[i][v] = start;
  }
}

// Stores the `n` columns of finished sums from (row, column) on, which is where dst points.
template <int Rows, int Vectors>
CONVLANE_INLINE void finish_tile(const Vec (&sum)[Rows][Vectors], const Epilogue& e, int64_t row, int64_t column,
                                 float* dst, int64_t dst_stride, int64_t n) {
  const bool full = n >= Vectors * kLanes;
  const Clamp clamp(e.activation);
  const float* residual = e.residual == nullptr ? nullptr : e.residual + row * e.residual_stride + column;
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) {
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      float* to = dst + i * dst_stride + v * kLanes;
      const float* from = residual + i * e.residual_stride + v * kLanes;
      if (full) {
        const Vec y = residual == nullptr ? sum[i][v] : add(sum[i][v], load(from));
        store(to, clamp(y));
      } else if (const int lanes = lanes_of(n, v)) {
        const Vec y = residual == nullptr ? sum[i][v] : add(sum[i][v], load(from, lanes));
        store(to, clamp(y), lanes);
      }
    }
  }
  // The longer activations run over the tile while it is in the first-level cache: unrolled for every register of every
  // tile shape, they would make up most of the library.
  if (!is_clamp(e.activation)) activate_rows(dst, Rows, dst_stride, full ? Vectors * kLanes : n, e);
}

// The products of a sum that a tile adds up: `steps` of them, from number `k` of tap `tap` on.
struct SumPart {
  int64_t tap, k, steps;
  bool first, last;
};

template <int Rows>
CONVLANE_INLINE bool all_are(const float* const* rows, const float* zeros) {
  if (rows[0] != zeros) return false;
  for (int i = 1; i < Rows; ++i)
    if (rows[i] != zeros) return false;
  return true;
}

template <int Rows, int Vectors>
void gemm_tile(const GemmArgs& g, int64_t row, int64_t column, const SumPart& part, const float* weight, Ahead ahead) {
  const int64_t n = g.n - column;
  const bool full = n >= Vectors * kLanes;
  float* dst = g.dst + row * g.dst_stride + column;
  fetch_output<Rows, Vectors>(g, dst, n);
  Vec sum[Rows][Vectors];
  begin_sums<Rows, Vectors>(sum, g.epilogue.bias, column, n);
  if (g.accumulate) {
    CONVLANE_UNROLL
    for (int i = 0; i < Rows; ++i) {
      CONVLANE_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        const float* from = dst + i * g.dst_stride + v * kLanes;
        sum[i][v] = full ? load(from) : load(from, lanes_of(n, v));
      }
    }
  }
  const int64_t most = g.taps * g.depth > kLongSum ? kSumBlock : g.taps * g.depth;
  int64_t left = most;  // products until the sums are stored
  bool stored = !part.first;
  if (stored) {
    CONVLANE_UNROLL
    for (int i = 0; i < Rows; ++i) {
      CONVLANE_UNROLL
      for (int v = 0; v < Vectors; ++v) sum[i][v] = zero();
    }
  }
  int64_t k = part.k;
  for (int64_t tap = part.tap, steps = part.steps; steps > 0; ++tap, k = 0) {
    const float* const* rows = g.rows + tap * g.rows_stride + row;
    const int64_t tap_end = g.depth - k < steps ? g.depth : k + steps;
    steps -= tap_end - k;
    const bool skipped = g.zeros != nullptr && all_are<Rows>(rows, g.zeros);
    const float* src[Rows];
    CONVLANE_UNROLL
    for (int i = 0; i < Rows; ++i) src[i] = rows[i] + g.row_offset;
    while (k < tap_end) {
      if (left == 0) {
        if (stored) add_stored<Rows, Vectors>(sum, dst, g.dst_stride, n);
        store_sums<Rows, Vectors>(sum, dst, g.dst_stride, n);
        stored = true;
        left = most;
      }
      const int64_t end = k + (tap_end - k < left ? tap_end - k : left);
      if (skipped) {
        left -= end - k;
        weight += (end - k) * Vectors * kLanes;
        ahead.weight += (end - k) * ahead.step;
        k = end;
        continue;
      }
      left -= end - k;
      for (; k < end; ++k, weight += Vectors * kLanes, ahead.weight += ahead.step) {
        CONVLANE_UNROLL
        for (int line = 0; line < Vectors * kLanes; line += kLineFloats) prefetch(ahead.weight + line);
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
  if (!part.last) return store_sums<Rows, Vectors>(sum, dst, g.dst_stride, n);

  finish_tile<Rows, Vectors>(sum, g.epilogue, row, column, dst, g.dst_stride, n);
}

// Calls the tile compiled for exactly `rows` rows.
template <int Vectors, int Rows = Vectors == 1 ? kNarrowRows : kGemmRows>
CONVLANE_INLINE void gemm_tile_of(int64_t rows, const GemmArgs& g, int64_t row, int64_t column, const SumPart& part,
                                  const float* weight, Ahead ahead) {
  if (rows == Rows) return gemm_tile<Rows, Vectors>(g, row, column, part, weight, ahead);
  if constexpr (Rows > 1) gemm_tile_of<Vectors, Rows - 1>(rows, g, row, column, part, weight, ahead);
}

// Several tiles' long sums are computed block by block, so that a block of rows and one of weights stay in the caches.
void gemm(const GemmArgs& g) {
  const auto tiles_of = [&](int rows) { return g.tiles == nullptr ? (g.m + rows - 1) / rows : g.tile_count; };
  const int64_t steps = g.taps * g.depth, most = steps > kLongSum && tiles_of(kGemmRows) > 1 ? kSumBlock : steps;
  SumPart part{};
  for (int64_t at = 0; at == 0 || at < steps; at += most) {
    part.steps = steps - at < most ? steps - at : most;
    part.first = at == 0;
    part.last = at + part.steps == steps;
    const float* panel = g.weight;
    for (int64_t column = 0; column < g.n; column += kGemmColumns) {
      const bool narrow = g.n - column <= kLanes;
      const int64_t width = narrow ? kLanes : kGemmColumns;
      const float* weight = panel + at * width;
      const int64_t tiles = tiles_of(narrow ? kNarrowRows : kGemmRows);
      const auto begin = [&](int64_t tile) {  // split evenly: 7 + 7 beats 13 + 1
        return g.tiles == nullptr ? g.m * tile / tiles : g.tiles[tile];
      };
      Ahead ahead = next_panel(g, weight, width, tiles);
      for (int64_t tile = 0; tile < tiles; ++tile, ahead.weight += part.steps * ahead.step) {
        const int64_t row = begin(tile), rows = begin(tile + 1) - row;
        if (narrow)
          gemm_tile_of<1>(rows, g, row, column, part, weight, ahead);
        else
          gemm_tile_of<kGemmVectors>(rows, g, row, column, part, weight, ahead);
      }
      panel += steps * width;
    }
    for (part.k += part.steps; !part.last && part.k >= g.depth; part.k -= g.depth) ++part.tap;
  }
}

}  // namespace
}  // namespace convlane
