// Sums over pixels that gradients of weights are: of outer products, of columns, and of products channel by channel.
//
// An outer product's register tile is the matrix kernel's: kGemmRows numbers of `a` are broadcast, kGemmVectors vectors
// of `b` loaded, for each pixel; channels last makes both contiguous, so nothing is packed.
#pragma once

#include "kernels/gemm.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// `Full` when all lanes hold columns, else `lanes` of the last vector do.
template <int Rows, int Vectors, bool Full>
void outer_tile(const OuterArgs& g, int64_t row, int64_t column, int lanes) {
  const auto at = [=](const float* p, int v) {
    return Full || v < Vectors - 1 ? load(p + v * kLanes) : load(p + v * kLanes, lanes);
  };
  float* dst = g.dst + row * g.dst_stride + column;
  if (g.accumulate) {
    CONVLANE_UNROLL
    for (int i = 0; i < Rows; ++i) {
      CONVLANE_UNROLL
      for (int line = 0; line < Vectors * kLanes; line += kLineFloats) prefetch(dst + i * g.dst_stride + line);
    }
  }
  Vec sum[Rows][Vectors];
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) {
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) sum[i][v] = zero();
  }
  const int64_t a_offset = g.a_offset + row, b_offset = g.b_offset + column;
  for (int64_t p = 0; p < g.count; ++p) {
    const float *a = g.a[p] + a_offset, *b = g.b[p] + b_offset;
    Vec y[Vectors];
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) y[v] = at(b, v);
    CONVLANE_UNROLL
    for (int i = 0; i < Rows; ++i) {
      const Vec x = broadcast(a[i]);
      CONVLANE_UNROLL
      for (int v = 0; v < Vectors; ++v) sum[i][v] = fma(x, y[v], sum[i][v]);
    }
  }
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) {
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      float* to = dst + i * g.dst_stride + v * kLanes;
      const Vec total = g.accumulate ? add(at(dst + i * g.dst_stride, v), sum[i][v]) : sum[i][v];
      if (Full || v < Vectors - 1)
        store(to, total);
      else
        store(to, total, lanes);
    }
  }
}

template <int Vectors, bool Full, int Rows = kGemmRows>
CONVLANE_INLINE void outer_tile_of(int64_t rows, const OuterArgs& g, int64_t row, int64_t column, int lanes) {
  if (rows == Rows) return outer_tile<Rows, Vectors, Full>(g, row, column, lanes);
  if constexpr (Rows > 1) outer_tile_of<Vectors, Full, Rows - 1>(rows, g, row, column, lanes);
}

void outer(const OuterArgs& g) {
  const int64_t tiles = (g.rows + kGemmRows - 1) / kGemmRows;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t row = g.rows * tile / tiles, rows = g.rows * (tile + 1) / tiles - row;
    for (int64_t column = 0; column < g.columns; column += kGemmColumns) {
      const int64_t left = g.columns - column;
      if (left >= kGemmColumns)
        outer_tile_of<kGemmVectors, true>(rows, g, row, column, kLanes);
      else if (left > kLanes)
        outer_tile_of<kGemmVectors, false>(rows, g, row, column, static_cast<int>(left - kLanes));
      else
        outer_tile_of<1, false>(rows, g, row, column, static_cast<int>(left));
    }
  }
}

CONVLANE_INLINE void copy_run(const float* src, int64_t length, float* dst) {
  int64_t i = 0;
  for (; i + kLanes <= length; i += kLanes) store(dst + i, load(src + i));
  if (i < length) {
    const int lanes = static_cast<int>(length - i);
    store(dst + i, load(src + i, lanes), lanes);
  }
}

void copy_windows(const float* src, int64_t row_step, int64_t pixel_step, int64_t pixels, int64_t rows, int64_t length,
                  float* dst) {
  for (int64_t p = 0; p < pixels; ++p, src += pixel_step)
    for (int64_t r = 0; r < rows; ++r, dst += length) copy_run(src + r * row_step, length, dst);
}

template <int Vectors>
CONVLANE_INLINE void sum_columns_of(const float* src, int64_t stride, int64_t rows, int lanes, float* dst) {
  Vec sum[Vectors];
  CONVLANE_UNROLL
  for (int v = 0; v < Vectors; ++v) sum[v] = zero();
  for (int64_t row = 0; row < rows; ++row, src += stride) {
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v)
      sum[v] = add(sum[v], lanes == kLanes ? load(src + v * kLanes) : load(src + v * kLanes, lanes));
  }
  CONVLANE_UNROLL
  for (int v = 0; v < Vectors; ++v)
    lanes == kLanes ? store(dst + v * kLanes, sum[v]) : store(dst + v * kLanes, sum[v], lanes);
}

void sum_columns(const float* src, int64_t stride, int64_t rows, int64_t columns, float* dst) {
  int64_t c = 0;
  for (; c + 8 * kLanes <= columns; c += 8 * kLanes) sum_columns_of<8>(src + c, stride, rows, kLanes, dst + c);
  for (; c < columns; c += kLanes) {
    const int lanes = static_cast<int>(columns - c < kLanes ? columns - c : kLanes);
    sum_columns_of<1>(src + c, stride, rows, lanes, dst + c);
  }
}

// All taps' sums of one vector of channels over the band. Every input pixel of a row is loaded once for each tap row
// that meets it: the columns of a window that its neighbour has too are kept in registers.
template <int Kernel, int Stride>
CONVLANE_INLINE void depthwise_gradient_unrolled(const DepthwiseGradientArgs& d, int64_t c) {
  Vec sum[Kernel * Kernel];
  CONVLANE_UNROLL
  for (int tap = 0; tap < Kernel * Kernel; ++tap) sum[tap] = zero();
  for (int64_t y = 0; y < d.out_rows; ++y) {
    CONVLANE_UNROLL
    for (int r = 0; r < Kernel; ++r) {
      const float* src = d.rows[y * Stride + r] + c;
      const float* gradient = d.gradient + y * d.out_width * d.channels + c;
      const auto column = [&](int64_t i) { return load(i >= 0 && i < d.width ? src + i * d.channels : kZeros); };
      Vec window[Kernel];
      CONVLANE_UNROLL
      for (int s = 0; s < Kernel - Stride; ++s) window[s] = column(s - d.left);
      for (int64_t x = 0; x < d.out_width; ++x, gradient += d.channels) {
        const Vec g = load(gradient);
        CONVLANE_UNROLL
        for (int s = Kernel - Stride; s < Kernel; ++s) window[s] = column(x * Stride - d.left + s);
        CONVLANE_UNROLL
        for (int s = 0; s < Kernel; ++s) sum[r * Kernel + s] = fma(window[s], g, sum[r * Kernel + s]);
        CONVLANE_UNROLL
        for (int s = 0; s < Kernel - Stride; ++s) window[s] = window[s + Stride];
      }
    }
  }
  CONVLANE_UNROLL
  for (int tap = 0; tap < Kernel * Kernel; ++tap) store(d.dst + tap * d.channels + c, sum[tap]);
}

// One vector of channels, tap after tap.
void depthwise_gradient_any(const DepthwiseGradientArgs& d, int64_t c, int lanes) {
  for (int64_t r = 0; r < d.kernel_h; ++r) {
    for (int64_t s = 0; s < d.kernel_w; ++s) {
      Vec sum = zero();
      for (int64_t y = 0; y < d.out_rows; ++y) {
        const float* src = d.rows[y * d.stride_h + r * d.dilation_h] + c;
        const float* gradient = d.gradient + y * d.out_width * d.channels + c;
        for (int64_t x = 0; x < d.out_width; ++x) {
          const int64_t column = x * d.stride_w + s * d.dilation_w - d.left;
          if (column < 0 || column >= d.width) continue;
          sum = fma(load(src + column * d.channels, lanes), load(gradient + x * d.channels, lanes), sum);
        }
      }
      store(d.dst + (r * d.kernel_w + s) * d.channels + c, sum, lanes);
    }
  }
}

void depthwise_gradient(const DepthwiseGradientArgs& d) {
  const bool square = d.kernel_h == d.kernel_w && d.stride_h == d.stride_w && d.dilation_h == 1 && d.dilation_w == 1;
  for (int64_t c = 0; c < d.channels; c += kLanes) {
    const int lanes = static_cast<int>(d.channels - c < kLanes ? d.channels - c : kLanes);
    if (square && lanes == kLanes && d.kernel_h == 3 && d.stride_h == 1)
      depthwise_gradient_unrolled<3, 1>(d, c);
    else if (square && lanes == kLanes && d.kernel_h == 3 && d.stride_h == 2)
      depthwise_gradient_unrolled<3, 2>(d, c);
    else
      depthwise_gradient_any(d, c, lanes);
  }
}

}  // namespace
}  // namespace convlane
