// Sums of columns, accumulated row by row.
#pragma once

#include "kernels/vec.h"

namespace convlane {
namespace {

// From column `c` on, sums as many columns as fill whole groups of vectors; returns where they end. Several vectors are
// summed at once, because each sum waits for its last addition.
template <int Vectors>
CONVLANE_INLINE int64_t sum_columns_of(const float* src, int64_t stride, int64_t rows, int64_t c, int64_t columns,
                                       float* dst) {
  for (; c + Vectors * kLanes <= columns; c += Vectors * kLanes) {
    Vec sum[Vectors];
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) sum[v] = zero();
    const float* from = src + c;
    for (int64_t row = 0; row < rows; ++row, from += stride) {
      CONVLANE_UNROLL
      for (int v = 0; v < Vectors; ++v) sum[v] = add(sum[v], load(from + v * kLanes));
    }
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) store(dst + c + v * kLanes, sum[v]);
  }
  return c;
}

void sum_columns(const float* src, int64_t stride, int64_t rows, int64_t columns, float* dst) {
  int64_t c = sum_columns_of<8>(src, stride, rows, 0, columns, dst);
  c = sum_columns_of<4>(src, stride, rows, c, columns, dst);
  c = sum_columns_of<2>(src, stride, rows, c, columns, dst);
  c = sum_columns_of<1>(src, stride, rows, c, columns, dst);
  if (c == columns) return;
  const int lanes = static_cast<int>(columns - c);
  Vec sum = zero();
  for (int64_t row = 0; row < rows; ++row) sum = add(sum, load(src + row * stride + c, lanes));
  store(dst + c, sum, lanes);
}

}  // namespace
}  // namespace convlane
