// The sums over pixels that make up weight gradients: of outer products, and of products channel by channel.
//
// An outer product's register tile is the matrix kernel's: for each pixel kGemmRows numbers of `a` are broadcast and
// kGemmVectors vectors of `b` loaded; channels last makes both contiguous, so nothing is packed.
#pragma once

#include "kernels/depthwise.inl"
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

// The sums over the band for Rows x Taps taps from (r, s) on, for one vector of channels. A gradient pixel is loaded
// once for all of them, and each multiply-add loads an input: 1 + 1 / (Rows Taps) loads each.
constexpr int kGradientSums = kRegisters == 32 ? 28 : 12;
constexpr int kGradientRows = 4;

template <int Rows, int Taps, bool Full>
void depthwise_gradient_tile(const DepthwiseGradientArgs& d, int64_t r, int64_t s, int64_t c, int lanes) {
  const auto at = [=](const float* p) { return Full ? load(p) : load(p, lanes); };
  Vec sum[Rows][Taps];
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) {
    CONVLANE_UNROLL
    for (int t = 0; t < Taps; ++t) sum[i][t] = zero();
  }
  // All taps of the pixels [begin, end) lie inside the row.
  const int64_t first = s * d.dilation_w - d.left, last = first + (Taps - 1) * d.dilation_w;
  const int64_t stride = d.stride_w, step = d.dilation_w * d.channels, pixel = stride * d.channels;
  const int64_t whole = first >= 0 ? 0 : (stride - 1 - first) / stride;
  const int64_t begin = whole < d.out_width ? whole : d.out_width;
  const int64_t met = d.width <= last ? 0 : (d.width - 1 - last) / stride + 1;
  const int64_t end = met < begin ? begin : met < d.out_width ? met : d.out_width;
  for (int64_t y = 0; y < d.out_rows; ++y) {
    const float* src[Rows];
    bool blank = true;
    CONVLANE_UNROLL
    for (int i = 0; i < Rows; ++i) {
      const float* row = d.rows[y * d.stride_h + (r + i) * d.dilation_h];
      blank = blank && row == d.zeros;
      src[i] = row + first * d.channels + c;
    }
    if (blank) continue;
    const float* gradient = d.gradient + y * d.out_width * d.channels + c;
    const auto edge = [&](int64_t x) {
      const Vec g = at(gradient + x * d.channels);
      CONVLANE_UNROLL
      for (int t = 0; t < Taps; ++t) {
        const int64_t column = first + x * stride + t * d.dilation_w;
        if (column < 0 || column >= d.width) continue;
        CONVLANE_UNROLL
        for (int i = 0; i < Rows; ++i) sum[i][t] = fma(at(src[i] + x * pixel + t * step), g, sum[i][t]);
      }
    };
    for (int64_t x = 0; x < begin; ++x) edge(x);
    for (int64_t x = begin; x < end; ++x) {
      const Vec g = at(gradient + x * d.channels);
      CONVLANE_UNROLL
      for (int i = 0; i < Rows; ++i) {
        CONVLANE_UNROLL
        for (int t = 0; t < Taps; ++t) sum[i][t] = fma(at(src[i] + x * pixel + t * step), g, sum[i][t]);
      }
    }
    for (int64_t x = end; x < d.out_width; ++x) edge(x);
  }
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) {
    CONVLANE_UNROLL
    for (int t = 0; t < Taps; ++t) {
      float* to = d.dst + ((r + i) * d.kernel_w + s + t) * d.channels + c;
      Full ? store(to, sum[i][t]) : store(to, sum[i][t], lanes);
    }
  }
}

// Takes as many rows of taps as are left and fit into the registers; returns how many.
template <int Taps, int Rows = kGradientRows>
int64_t depthwise_gradient_rows(const DepthwiseGradientArgs& d, int64_t r, int64_t s) {
  if constexpr (Rows > 1)
    if (Rows * Taps > kGradientSums || r + Rows > d.kernel_h) return depthwise_gradient_rows<Taps, Rows - 1>(d, r, s);
  if constexpr (Rows == 1 || Rows * Taps <= kGradientSums)
    for_whole_vectors(d.channels, [&](int64_t c) { depthwise_gradient_tile<Rows, Taps, true>(d, r, s, c, kLanes); });
  return Rows;
}

template <int Taps = kRowTaps>
void depthwise_gradient_columns(const DepthwiseGradientArgs& d, int64_t s, int64_t taps) {
  if constexpr (Taps > 1)
    if (taps < Taps) return depthwise_gradient_columns<Taps - 1>(d, s, taps);
  for (int64_t r = 0; r < d.kernel_h;) {
    if (d.channels >= kLanes) {
      r += depthwise_gradient_rows<Taps>(d, r, s);
    } else {
      depthwise_gradient_tile<1, Taps, false>(d, r, s, 0, static_cast<int>(d.channels));
      ++r;
    }
  }
}

void depthwise_gradient(const DepthwiseGradientArgs& d) {
  const int64_t parts = (d.kernel_w + kRowTaps - 1) / kRowTaps;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t s = d.kernel_w * part / parts;
    depthwise_gradient_columns(d, s, d.kernel_w * (part + 1) / parts - s);
  }
}

}  // namespace
}  // namespace convlane
