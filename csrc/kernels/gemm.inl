// The matrix product under pointwise, direct, im2col and stem convolution and under the linear layer.
//
// A register tile of up to kGemmRows x (kGemmVectors * lanes) sums stays in registers over the whole depth: per step
// one broadcast per row and kGemmVectors loads of packed weights feed kGemmRows * kGemmVectors multiply-adds.
// Every sum runs over tap and depth in order, whatever the tile, so results do not depend on how rows are grouped.
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

// Lanes of vector v that hold real columns when `n` are left.
CONVLANE_INLINE int lanes_of(int64_t n, int v) {
  const int64_t left = n - v * kLanes;
  return static_cast<int>(left >= kLanes ? kLanes : left > 0 ? left : 0);
}

template <int Rows, int Vectors>
void gemm_tile(const GemmArgs& g, int64_t row, int64_t column, const float* weight) {
  const int64_t n = g.n - column;
  const bool full = n >= Vectors * kLanes;
  Vec sum[Rows][Vectors];
  CONVLANE_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    const Vec start = g.epilogue.bias == nullptr ? zero()
                      : full                     ? load(g.epilogue.bias + column + v * kLanes)
                                                 : load(g.epilogue.bias + column + v * kLanes, lanes_of(n, v));
    CONVLANE_UNROLL
    for (int i = 0; i < Rows; ++i) sum[i][v] = start;
  }
  for (int64_t tap = 0; tap < g.taps; ++tap) {
    const float* src[Rows];
    CONVLANE_UNROLL
    for (int i = 0; i < Rows; ++i) src[i] = g.rows[tap * g.rows_stride + row + i] + g.row_offset;
    for (int64_t k = 0; k < g.depth; ++k, weight += Vectors * kLanes) {
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

  const Clamp clamp(g.epilogue.activation);
  float* dst = g.dst + row * g.dst_stride + column;
  const float* residual =
      g.epilogue.residual == nullptr ? nullptr : g.epilogue.residual + row * g.epilogue.residual_stride + column;
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) {
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      float* to = dst + i * g.dst_stride + v * kLanes;
      const float* from = residual + i * g.epilogue.residual_stride + v * kLanes;
      if (full) {
        const Vec y = residual == nullptr ? sum[i][v] : add(sum[i][v], load(from));
        store(to, clamp(y));
      } else if (const int lanes = lanes_of(n, v)) {
        const Vec y = residual == nullptr ? sum[i][v] : add(sum[i][v], load(from, lanes));
        store(to, clamp(y), lanes);
      }
    }
  }
  // The longer activations run over the tile while it is in the first-level cache: unrolled into every register of
  // every tile shape they would be most of the library.
  if (!is_clamp(g.epilogue.activation)) activate_rows(dst, Rows, g.dst_stride, full ? Vectors * kLanes : n, g.epilogue);
}

// Calls the tile compiled for exactly `rows`.
template <int Vectors, int Rows = kGemmRows>
CONVLANE_INLINE void gemm_tile_of(int64_t rows, const GemmArgs& g, int64_t row, int64_t column, const float* weight) {
  if (rows == Rows) return gemm_tile<Rows, Vectors>(g, row, column, weight);
  if constexpr (Rows > 1) gemm_tile_of<Vectors, Rows - 1>(rows, g, row, column, weight);
}

void gemm(const GemmArgs& g) {
  const int64_t tiles = (g.m + kGemmRows - 1) / kGemmRows;
  const float* weight = g.weight;
  for (int64_t column = 0; column < g.n; column += kGemmColumns) {
    const bool narrow = g.n - column <= kLanes;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t row = g.m * tile / tiles, rows = g.m * (tile + 1) / tiles - row;  // 7 + 7 beats 13 + 1
      if (narrow)
        gemm_tile_of<1>(rows, g, row, column, weight);
      else
        gemm_tile_of<kGemmVectors>(rows, g, row, column, weight);
    }
    weight += g.taps * g.depth * (narrow ? kLanes : kGemmColumns);
  }
}

}  // namespace
}  // namespace convlane
