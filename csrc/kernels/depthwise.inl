// Depthwise convolution of a band of rows, channels last: lanes are channels, so every tap is one load and one
// multiply-add. The usual 3x3, 5x5 and 7x7 filters have the taps unrolled over a run of pixels, which share the input
// columns they both need; any other filter takes the loop over taps.
//
// One vector of channels goes through the whole band before the next: the input rows it needs (64 bytes per pixel)
// then stay in the first-level cache from one output row to the next, where whole rows would not.
#pragma once

#include "kernels/activation.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// Divides the usual map widths 7, 14, 28, 56, 112; close to the 8 chains that cover the multiply-add's latency.
constexpr int kDepthwisePixels = 7;

// Adds the residual to one vector of one output pixel, counted from the band's first, and stores it. The longer
// activations follow for several pixels at once.
CONVLANE_INLINE void depthwise_store(const DepthwiseArgs& d, int64_t pixel, int64_t c, int lanes, Vec sum,
                                     Clamp clamp) {
  if (d.epilogue.residual != nullptr)
    sum = add(sum, load(d.epilogue.residual + pixel * d.epilogue.residual_stride + c, lanes));
  float* to = d.dst + pixel * d.dst_stride + c;
  if (lanes == kLanes)
    store(to, clamp(sum));
  else
    store(to, clamp(sum), lanes);
}

CONVLANE_INLINE Vec depthwise_bias(const DepthwiseArgs& d, int64_t c, int lanes) {
  return d.epilogue.bias == nullptr ? zero() : load(d.epilogue.bias + c, lanes);
}

alignas(64) constexpr float kZeros[kLanes] = {};

// `Pixels` outputs of one row and one vector of channels. Sums run over r, then s, as everywhere. The window may leave
// the row at either side by up to Kernel - 1 columns (a single pixel's, by any number); those columns are read from
// zeros, which costs less than a second version of the loop.
template <int Kernel, int Stride, int Pixels>
CONVLANE_INLINE void depthwise_run(const DepthwiseArgs& d, int64_t y, int64_t x, int64_t c, const Vec* weight, Vec bias,
                                   Clamp clamp) {
  const int64_t first = x * Stride - d.left;
  Vec sum[Pixels];
  CONVLANE_UNROLL
  for (int p = 0; p < Pixels; ++p) sum[p] = bias;
  CONVLANE_UNROLL
  for (int r = 0; r < Kernel; ++r) {
    const float* src = d.rows[y * d.stride_h + r] + first * d.src_stride + c;
    CONVLANE_UNROLL
    for (int i = 0; i < (Pixels - 1) * Stride + Kernel; ++i, src += d.src_stride) {
      const float* from = src;
      if (i < Kernel - 1 || Pixels == 1) from = first + i >= 0 ? from : kZeros;
      if (i > (Pixels - 1) * Stride || Pixels == 1) from = first + i < d.width ? from : kZeros;
      const Vec value = in_register(load(from));
      CONVLANE_UNROLL
      for (int p = 0; p < Pixels; ++p) {
        const int s = i - p * Stride;
        if (s >= 0 && s < Kernel) sum[p] = fma(value, weight[r * Kernel + s], sum[p]);
      }
    }
  }
  const int64_t pixel = y * d.out_width + x;
  float* dst = d.dst + pixel * d.dst_stride + c;
  CONVLANE_UNROLL
  for (int p = 0; p < Pixels; ++p) {
    if (d.epilogue.residual == nullptr)
      store(dst + p * d.dst_stride, clamp(sum[p]));
    else
      depthwise_store(d, pixel + p, c, kLanes, sum[p], clamp);
  }
}

// What follows a row of one vector of channels while it is in the first-level cache: the longer activations, and the
// row's sum.
CONVLANE_INLINE void depthwise_finish_row(const DepthwiseArgs& d, int64_t y, int64_t c, int lanes) {
  float* row = d.dst + y * d.out_width * d.dst_stride + c;
  if (!is_clamp(d.epilogue.activation)) activate_rows(row, d.out_width, d.dst_stride, lanes, d.epilogue);
  if (d.sums == nullptr) return;
  float* sums = d.sums + y * d.sums_stride + c;
  Vec sum = zero();
  if (lanes == kLanes) {
    for (int64_t x = 0; x < d.out_width; ++x) sum = add(sum, load(row + x * d.dst_stride));
    store(sums, sum);
  } else {
    for (int64_t x = 0; x < d.out_width; ++x) sum = add(sum, load(row + x * d.dst_stride, lanes));
    store(sums, sum, lanes);
  }
}

// Whole vectors of channels; returns where they end.
template <int Kernel, int Stride>
int64_t depthwise_unrolled(const DepthwiseArgs& d) {
  constexpr int kPixels = kDepthwisePixels;
  const Clamp clamp(d.epilogue.activation);
  int64_t c = 0;
  for (; c + kLanes <= d.channels; c += kLanes) {
    Vec weight[Kernel * Kernel];
    CONVLANE_UNROLL
    for (int tap = 0; tap < Kernel * Kernel; ++tap) weight[tap] = load(d.weight + tap * d.weight_stride + c);
    const Vec bias = depthwise_bias(d, c, kLanes);
    for (int64_t y = 0; y < d.out_rows; ++y) {
      for (int64_t x = 0; x < d.out_width;) {
        const int64_t first = x * Stride - d.left, beyond = first + (kPixels - 1) * Stride + Kernel - d.width;
        const bool whole = x + kPixels <= d.out_width && first > -Kernel && beyond < Kernel;
        if (whole)
          depthwise_run<Kernel, Stride, kPixels>(d, y, x, c, weight, bias, clamp);
        else
          depthwise_run<Kernel, Stride, 1>(d, y, x, c, weight, bias, clamp);
        x += whole ? kPixels : 1;
      }
      depthwise_finish_row(d, y, c, kLanes);
    }
  }
  return c;
}

// Any filter, stride and dilation, from channel `begin` on.
void depthwise_any(const DepthwiseArgs& d, int64_t begin) {
  const Clamp clamp(d.epilogue.activation);
  for (int64_t y = 0; y < d.out_rows; ++y) {
    const float* const* rows = d.rows + y * d.stride_h;
    for (int64_t c = begin; c < d.channels; c += kLanes) {
      const int lanes = static_cast<int>(d.channels - c < kLanes ? d.channels - c : kLanes);
      const Vec bias = depthwise_bias(d, c, lanes);
      for (int64_t x = 0; x < d.out_width; ++x) {
        Vec sum = bias;
        for (int64_t r = 0; r < d.kernel_h; ++r) {
          for (int64_t s = 0; s < d.kernel_w; ++s) {
            const int64_t column = x * d.stride_w - d.left + s * d.dilation_w;
            if (column < 0 || column >= d.width) continue;
            const Vec value = load(rows[r * d.dilation_h] + column * d.src_stride + c, lanes);
            sum = fma(value, load(d.weight + (r * d.kernel_w + s) * d.weight_stride + c, lanes), sum);
          }
        }
        depthwise_store(d, y * d.out_width + x, c, lanes, sum, clamp);
      }
      depthwise_finish_row(d, y, c, lanes);
    }
  }
}

void depthwise(const DepthwiseArgs& d) {
  int64_t done = 0;
  if (d.dilation_h == 1 && d.dilation_w == 1 && d.kernel_h == d.kernel_w) {
    if (d.kernel_h == 3 && d.stride_w == 1) done = depthwise_unrolled<3, 1>(d);
    if (d.kernel_h == 3 && d.stride_w == 2) done = depthwise_unrolled<3, 2>(d);
    if (d.kernel_h == 5 && d.stride_w == 1) done = depthwise_unrolled<5, 1>(d);
    if (d.kernel_h == 5 && d.stride_w == 2) done = depthwise_unrolled<5, 2>(d);
    if (d.kernel_h == 7 && d.stride_w == 1) done = depthwise_unrolled<7, 1>(d);
  }
  if (done < d.channels) depthwise_any(d, done);
}

// Two neighbouring inputs meet the same outputs, one by the even taps, one by the odd ones.
template <int Kernel, int Rows>
CONVLANE_INLINE void depthwise_input_gradient_of(const DepthwiseInputGradientArgs& d, int64_t c, int lanes) {
  constexpr int kBefore = (Kernel - 1) / 2;  // outputs behind the first that an input meets
  Vec weight[Rows][Kernel], window[Rows][kBefore + 1];
  const auto output = [&](int row, int64_t j) {
    return load(j >= 0 && j < d.row_width ? d.rows[row] + j * d.channels + c : kZeros, lanes);
  };
  const int64_t begin = d.left / 2, end = (d.left + d.width + 1) / 2;
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) {
    CONVLANE_UNROLL
    for (int s = 0; s < Kernel; ++s) weight[i][s] = load(d.weights[i] + s * d.channels + c, lanes);
    CONVLANE_UNROLL
    for (int k = 1; k <= kBefore; ++k) window[i][k] = output(i, begin - k);
  }
  for (int64_t j = begin; j < end; ++j) {
    Vec even = zero(), odd = zero();
    CONVLANE_UNROLL
    for (int i = 0; i < Rows; ++i) {
      window[i][0] = output(i, j);
      CONVLANE_UNROLL
      for (int k = 0; k <= kBefore; ++k) even = fma(window[i][k], weight[i][2 * k], even);
      CONVLANE_UNROLL
      for (int k = 0; k < kBefore; ++k) odd = fma(window[i][k], weight[i][2 * k + 1], odd);
      CONVLANE_UNROLL
      for (int k = kBefore; k > 0; --k) window[i][k] = window[i][k - 1];
    }
    const int64_t x = 2 * j - d.left;
    if (x >= 0) store(d.dst + x * d.channels + c, even, lanes);
    if (x + 1 < d.width) store(d.dst + (x + 1) * d.channels + c, odd, lanes);
  }
}

template <int Kernel>
CONVLANE_INLINE void depthwise_input_gradient_row(const DepthwiseInputGradientArgs& d) {
  for (int64_t c = 0; c < d.channels; c += kLanes) {
    const int lanes = static_cast<int>(d.channels - c < kLanes ? d.channels - c : kLanes);
    if (d.count == 1) depthwise_input_gradient_of<Kernel, 1>(d, c, lanes);
    if (d.count == 2) depthwise_input_gradient_of<Kernel, 2>(d, c, lanes);
    if (d.count == 3) depthwise_input_gradient_of<Kernel, 3>(d, c, lanes);
  }
}

void depthwise_input_gradient(const DepthwiseInputGradientArgs& d) {
  d.kernel == 3 ? depthwise_input_gradient_row<3>(d) : depthwise_input_gradient_row<5>(d);
}

}  // namespace
}  // namespace convlane
