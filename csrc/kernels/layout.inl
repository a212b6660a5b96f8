// Transposes between NCHW planes and channels-last pixels.
#pragma once

#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// Square blocks that touch whole cache lines on both sides; the compiler turns the inner block into shuffles or
// scalar moves, and at 16 x 16 floats both sides stay in the first-level cache.
void transpose(const float* src, int64_t src_stride, float* dst, int64_t dst_stride, int64_t rows, int64_t columns) {
  constexpr int64_t kBlock = 16;
  for (int64_t j0 = 0; j0 < columns; j0 += kBlock) {
    const int64_t j1 = j0 + kBlock < columns ? j0 + kBlock : columns;
    for (int64_t i0 = 0; i0 < rows; i0 += kBlock) {
      const int64_t i1 = i0 + kBlock < rows ? i0 + kBlock : rows;
      if (i1 - i0 == kBlock && j1 - j0 == kBlock) {
        for (int64_t j = 0; j < kBlock; ++j)
          for (int64_t i = 0; i < kBlock; ++i)
            dst[(j0 + j) * dst_stride + i0 + i] = src[(i0 + i) * src_stride + j0 + j];
      } else {
        for (int64_t j = j0; j < j1; ++j)
          for (int64_t i = i0; i < i1; ++i) dst[j * dst_stride + i] = src[i * src_stride + j];
      }
    }
  }
}

}  // namespace
}  // namespace convlane
