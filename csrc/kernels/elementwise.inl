// Sums, products and per-channel scaling of arrays. dst may always be one of the sources.
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

void add(const float* a, const float* b, float* dst, int64_t count, Activation activation, float slope) {
  const Clamp clamp(activation);
  map2(a, b, dst, count, [=](Vec x, Vec y) { return clamp(add(x, y)); });
  if (!is_clamp(activation)) activate(dst, dst, count, activation, slope);
}

void multiply(const float* a, const float* b, float* dst, int64_t count) {
  map2(a, b, dst, count, [](Vec x, Vec y) { return mul(x, y); });
}

void scale(const float* src, const float* scale, float* dst, int64_t rows, int64_t channels) {
  for (int64_t row = 0; row < rows; ++row) multiply(src + row * channels, scale, dst + row * channels, channels);
}

void scale_rows(const float* src, const float* scale, float* dst, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row) {
    const Vec factor = broadcast(scale[row]);
    map(src + row * columns, dst + row * columns, columns, [=](Vec x) { return mul(x, factor); });
  }
}

void dot_channels(const float* a, const float* b, int64_t rows, int64_t stride, int64_t channels, float* sums) {
  for (int64_t row = 0; row < rows; ++row)
    for_vectors(channels, [&](int64_t c, auto get, auto put) {
      put(sums + c, fma(get(a + row * stride + c), get(b + row * stride + c), get(sums + c)));
    });
}

}  // namespace
}  // namespace convlane
