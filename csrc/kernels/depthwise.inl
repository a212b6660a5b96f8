// Depthwise convolution of one row of output pixels, channels last: lanes are channels, so every tap is one load and
// one multiply-add. The usual 3x3 and 5x5 filters have kernels with the taps unrolled over a run of pixels, which
// share the input columns they both need; any other filter takes the loop over taps.
#pragma once

#include "kernels/activation.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// Finishes and stores one vector of one output pixel.
CONVLANE_INLINE void depthwise_store(const DepthwiseArgs& d, int64_t pixel, int64_t c, int lanes, Vec sum,
                                     Clamp clamp) {
  float* to = d.dst + pixel * d.channels + c;
  if (d.epilogue.residual != nullptr)
    sum = add(sum, load(d.epilogue.residual + pixel * d.epilogue.residual_stride + c, lanes));
  sum = clamp(sum);
  if (lanes == kLanes)
    store(to, sum);
  else
    store(to, sum, lanes);
  if (!is_clamp(d.epilogue.activation)) activate(to, to, lanes, d.epilogue.activation, d.epilogue.slope);
}

CONVLANE_INLINE Vec depthwise_bias(const DepthwiseArgs& d, int64_t c, int lanes) {
  return d.epilogue.bias == nullptr ? zero() : load(d.epilogue.bias + c, lanes);
}

// `Pixels` outputs of one vector of channels. Sums run over r, then s, as everywhere.
template <int Kernel, int Stride, int Pixels>
CONVLANE_INLINE void depthwise_run(const DepthwiseArgs& d, int64_t pixel, int64_t c, const Vec* weight, Vec bias,
                                   Clamp clamp) {
  Vec sum[Pixels];
  CONVLANE_UNROLL
  for (int p = 0; p < Pixels; ++p) sum[p] = bias;
  CONVLANE_UNROLL
  for (int r = 0; r < Kernel; ++r) {
    const float* src = d.rows[r] + (d.column + pixel * Stride) * d.channels + c;
    CONVLANE_UNROLL
    for (int column = 0; column < (Pixels - 1) * Stride + Kernel; ++column) {
      const Vec x = load(src + column * d.channels);
      CONVLANE_UNROLL
      for (int p = 0; p < Pixels; ++p) {
        const int s = column - p * Stride;
        if (s >= 0 && s < Kernel) sum[p] = fma(x, weight[r * Kernel + s], sum[p]);
      }
    }
  }
  CONVLANE_UNROLL
  for (int p = 0; p < Pixels; ++p) depthwise_store(d, pixel + p, c, kLanes, sum[p], clamp);
}

// Whole vectors of channels; returns where they end.
template <int Kernel, int Stride>
int64_t depthwise_unrolled(const DepthwiseArgs& d) {
  constexpr int kPixels = kRegisters == 32 ? 8 : 4;
  const Clamp clamp(d.epilogue.activation);
  int64_t c = 0;
  for (; c + kLanes <= d.channels; c += kLanes) {
    Vec weight[Kernel * Kernel];
    CONVLANE_UNROLL
    for (int tap = 0; tap < Kernel * Kernel; ++tap) weight[tap] = load(d.weight + tap * d.channels + c);
    const Vec bias = depthwise_bias(d, c, kLanes);
    int64_t pixel = 0;
    for (; pixel + kPixels <= d.pixels; pixel += kPixels)
      depthwise_run<Kernel, Stride, kPixels>(d, pixel, c, weight, bias, clamp);
    for (; pixel < d.pixels; ++pixel) depthwise_run<Kernel, Stride, 1>(d, pixel, c, weight, bias, clamp);
  }
  return c;
}

// Any filter, stride, dilation and range of taps, from channel `first` on.
void depthwise_any(const DepthwiseArgs& d, int64_t first) {
  const Clamp clamp(d.epilogue.activation);
  for (int64_t pixel = 0; pixel < d.pixels; ++pixel) {
    for (int64_t c = first; c < d.channels; c += kLanes) {
      const int lanes = static_cast<int>(d.channels - c < kLanes ? d.channels - c : kLanes);
      Vec sum = depthwise_bias(d, c, lanes);
      for (int64_t r = 0; r < d.kernel_h; ++r) {
        for (int64_t s = d.tap_begin; s < d.tap_end; ++s) {
          const Vec x = load(d.rows[r] + (d.column + pixel * d.stride + s * d.dilation) * d.channels + c, lanes);
          sum = fma(x, load(d.weight + (r * d.kernel_w + s) * d.channels + c, lanes), sum);
        }
      }
      depthwise_store(d, pixel, c, lanes, sum, clamp);
    }
  }
}

void depthwise(const DepthwiseArgs& d) {
  int64_t done = 0;
  const bool all_taps = d.tap_begin == 0 && d.tap_end == d.kernel_w;
  if (all_taps && d.dilation == 1 && d.kernel_h == d.kernel_w) {
    if (d.kernel_h == 3 && d.stride == 1) done = depthwise_unrolled<3, 1>(d);
    if (d.kernel_h == 3 && d.stride == 2) done = depthwise_unrolled<3, 2>(d);
    if (d.kernel_h == 5 && d.stride == 1) done = depthwise_unrolled<5, 1>(d);
    if (d.kernel_h == 5 && d.stride == 2) done = depthwise_unrolled<5, 2>(d);
  }
  if (done < d.channels) depthwise_any(d, done);
}

}  // namespace
}  // namespace convlane
