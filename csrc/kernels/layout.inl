// Transposes between NCHW planes and channels-last pixels, and interleaving of two images' channels.
#pragma once

#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// kLanes rows by 4 columns in registers: every quad holds different rows, so that 4x4 transposes within quads leave
// kLanes consecutive rows of one column in each vector.
CONVLANE_INLINE void transpose_tile(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  const Vec a = load_quads(src, 4 * src_stride), b = load_quads(src + src_stride, 4 * src_stride);
  const Vec c = load_quads(src + 2 * src_stride, 4 * src_stride), d = load_quads(src + 3 * src_stride, 4 * src_stride);
  const Vec ac_low = interleave_low(a, c), ac_high = interleave_high(a, c);
  const Vec bd_low = interleave_low(b, d), bd_high = interleave_high(b, d);
  store(dst, interleave_low(ac_low, bd_low));
  store(dst + dst_stride, interleave_high(ac_low, bd_low));
  store(dst + 2 * dst_stride, interleave_low(ac_high, bd_high));
  store(dst + 3 * dst_stride, interleave_high(ac_high, bd_high));
}

void transpose_edge(const float* src, int64_t src_stride, float* dst, int64_t dst_stride, int64_t rows,
                    int64_t columns) {
  for (int64_t j = 0; j < columns; ++j)
    for (int64_t i = 0; i < rows; ++i) dst[j * dst_stride + i] = src[i * src_stride + j];
}

// Square blocks with sides of one cache line, so that both arrays use each line whole while it is in the first-level
// cache. The remainders at the ends are moved by tiles that overlap the last whole ones.
void transpose(const float* src, int64_t src_stride, float* dst, int64_t dst_stride, int64_t rows, int64_t columns) {
  constexpr int64_t kBlock = 16, kColumns = 4;
  static_assert(kBlock % kLanes == 0, "a block is made of whole tiles");
  if (rows < kLanes || columns < kColumns) return transpose_edge(src, src_stride, dst, dst_stride, rows, columns);
  for (int64_t j0 = 0; j0 < columns; j0 += kBlock) {
    for (int64_t i0 = 0; i0 < rows; i0 += kBlock) {
      const int64_t last_row = i0 + kBlock < rows ? i0 + kBlock : rows;
      const int64_t last_column = j0 + kBlock < columns ? j0 + kBlock : columns;
      for (int64_t next_row = i0; next_row < last_row; next_row += kLanes) {
        const int64_t i = next_row < rows - kLanes ? next_row : rows - kLanes;
        for (int64_t next_column = j0; next_column < last_column; next_column += kColumns) {
          const int64_t j = next_column < columns - kColumns ? next_column : columns - kColumns;
          transpose_tile(src + i * src_stride + j, src_stride, dst + j * dst_stride + i, dst_stride);
        }
      }
    }
  }
}

void repeat_channels(const float* src, int64_t count, int64_t multiplier, float* dst) {
  const int64_t total = count * multiplier;
  if (multiplier >= kLanes) {
    for (int64_t i = 0; i < count; ++i, dst += multiplier) {
      const Vec value = broadcast(src[i]);
      for (int64_t j = 0; j < multiplier; j += kLanes)
        store(dst + (j + kLanes <= multiplier ? j : multiplier - kLanes), value);
    }
    return;
  }
  // If a vector begins with the p-th copy of channel c, lane l holds channel c + (p + l) / multiplier.
  std::int32_t channel[kLanes][kLanes];
  for (int64_t p = 0; p < multiplier; ++p)
    for (int l = 0; l < kLanes; ++l) channel[p][l] = static_cast<std::int32_t>((p + l) / multiplier);
  for (int64_t i = 0; i < total; i += kLanes) {
    const int64_t first = i / multiplier, left = count - first;
    const Vec values = left >= kLanes ? load(src + first) : load(src + first, static_cast<int>(left));
    const Vec copies = permute(values, load_int(channel[i % multiplier]));
    if (i + kLanes <= total)
      store(dst + i, copies);
    else
      store(dst + i, copies, static_cast<int>(total - i));
  }
}

void sum_groups(const float* src, int64_t count, int64_t multiplier, float* dst) {
  if (multiplier >= kLanes) {
    for (int64_t i = 0; i < count; ++i, src += multiplier) {
      Vec sum = zero();
      for_vectors(multiplier, [&](int64_t j, auto get, auto) { sum = add(sum, get(src + j)); });
      dst[i] = sum_lanes(sum);
    }
    return;
  }
  // The j-th numbers of `kLanes` groups: which of the vectors that the groups fill they are in, and in which lane.
  std::int32_t vector[kLanes][kLanes], lane[kLanes][kLanes];
  for (int j = 0; j < multiplier; ++j) {
    for (int l = 0; l < kLanes; ++l) {
      vector[j][l] = static_cast<std::int32_t>((l * multiplier + j) / kLanes);
      lane[j][l] = static_cast<std::int32_t>((l * multiplier + j) % kLanes);
    }
  }
  for (int64_t i = 0; i < count; i += kLanes) {
    const int groups = static_cast<int>(count - i < kLanes ? count - i : kLanes);
    Vec sum = zero();
    for (int j = 0; j < multiplier; ++j) {
      const IntVec at = load_int(lane[j]), of = load_int(vector[j]);
      Vec each = zero();
      for (int v = 0; v < multiplier; ++v) {
        const int64_t left = groups * multiplier - v * kLanes;
        if (left <= 0) break;
        const float* from = src + i * multiplier + v * kLanes;
        const Vec values = left >= kLanes ? load(from) : load(from, static_cast<int>(left));
        each = select(equal(of, broadcast_int(v)), permute(values, at), each);
      }
      sum = add(sum, each);
    }
    groups == kLanes ? store(dst + i, sum) : store(dst + i, sum, groups);
  }
}

void interleave(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* dst, int64_t rows,
                int64_t columns) {
  for (int64_t row = 0; row < rows; ++row, a += a_stride, b += b_stride, dst += 2 * columns) {
    for (int64_t c = 0; c < columns; ++c) {
      dst[2 * c] = a[c];
      dst[2 * c + 1] = b[c];
    }
  }
}

}  // namespace
}  // namespace convlane
