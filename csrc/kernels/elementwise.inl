// Sums, products and per-channel scaling of arrays. Everywhere dst may be one of the sources.
#pragma once

#include "kernels/activation.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

template <class F>
CONVLANE_INLINE void map2(const float* a, const float* b, float* dst, int64_t count, F f) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(dst + i, f(load(a + i), load(b + i)));
  const int tail = static_cast<int>(count - i);
  if (tail > 0) store(dst + i, f(load(a + i, tail), load(b + i, tail)), tail);
}

void add_arrays(const float* a, const float* b, float* dst, int64_t count, Activation activation, float slope) {
  const Clamp clamp(activation);
  map2(a, b, dst, count, [=](Vec x, Vec y) { return clamp(add(x, y)); });
  if (!is_clamp(activation)) activate(dst, dst, count, activation, slope);
}

void multiply_arrays(const float* a, const float* b, float* dst, int64_t count) {
  map2(a, b, dst, count, [](Vec x, Vec y) { return mul(x, y); });
}

template <bool Shift>
CONVLANE_INLINE void scale_rows(const float* src, const float* scale, const float* shift, float* dst, int64_t rows,
                                int64_t channels) {
  for (int64_t row = 0; row < rows; ++row, src += channels, dst += channels) {
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      const Vec x = load(src + c), factor = load(scale + c);
      store(dst + c, Shift ? fma(x, factor, load(shift + c)) : mul(x, factor));
    }
    const int tail = static_cast<int>(channels - c);
    if (tail == 0) continue;
    const Vec x = load(src + c, tail), factor = load(scale + c, tail);
    store(dst + c, Shift ? fma(x, factor, load(shift + c, tail)) : mul(x, factor), tail);
  }
}

void scale_shift(const float* src, const float* scale, const float* shift, float* dst, int64_t rows, int64_t channels) {
  if (shift == nullptr)
    scale_rows<false>(src, scale, shift, dst, rows, channels);
  else
    scale_rows<true>(src, scale, shift, dst, rows, channels);
}

}  // namespace
}  // namespace convlane
