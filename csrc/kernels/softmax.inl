// Softmax of rows: e^(x - max) / sum; the largest exponent is 0, so nothing overflows.
#pragma once

#include "kernels/activation.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

CONVLANE_INLINE Vec sum_in_all_lanes(Vec a) {
  return fold_lanes(a, [](Vec x, Vec y) { return add(x, y); });
}

// The maximum may lose a NaN, but the sum does not; inf - inf makes rows with +inf, or with nothing but -inf, NaN.
void softmax(const float* src, float* dst, int64_t rows, int64_t channels, bool log) {
  const int64_t whole = channels - channels % kLanes;
  const int tail = static_cast<int>(channels - whole);
  const Mask in_tail = lanes_before(tail);
  const Vec minus_infinity = broadcast(-__builtin_inff());
  for (int64_t row = 0; row < rows; ++row, src += channels, dst += channels) {
    // Lanes beyond the end count as -inf, whose exponential is 0.
    const Vec last = select(in_tail, load(src + whole, tail), minus_infinity);
    Vec top = last;
    for (int64_t c = 0; c < whole; c += kLanes) top = max(top, load(src + c));
    top = fold_lanes(top, [](Vec x, Vec y) { return max(x, y); });

    const Vec last_power = tail > 0 ? exp(sub(last, top)) : zero();
    Vec sums = zero();
    for (int64_t c = 0; c < whole; c += kLanes) {
      const Vec power = exp(sub(load(src + c), top));
      sums = add(sums, power);
      if (!log) store(dst + c, power);
    }
    if (tail > 0) sums = add(sums, last_power);
    sums = sum_in_all_lanes(sums);

    if (log) {
      float sum[kLanes];
      store(sum, sums);
      const Vec log_sum = broadcast(static_cast<float>(__builtin_log(static_cast<double>(sum[0]))));
      for (int64_t c = 0; c < whole; c += kLanes) store(dst + c, sub(sub(load(src + c), top), log_sum));
      if (tail > 0) store(dst + whole, sub(sub(last, top), log_sum), tail);
    } else {
      const Vec factor = div(broadcast(1.0f), sums);
      for (int64_t c = 0; c < whole; c += kLanes) store(dst + c, mul(load(dst + c), factor));
      if (tail > 0) store(dst + whole, mul(last_power, factor), tail);
    }
  }
}

// From softmax's output y: y * (gradient - sum of gradient * y); for its logarithm: gradient - e^y * sum of gradient.
// dst may be gradient.
void softmax_gradient(const float* y, const float* gradient, float* dst, int64_t rows, int64_t channels, bool log) {
  for (int64_t row = 0; row < rows; ++row, y += channels, gradient += channels, dst += channels) {
    Vec sums = zero();
    for_vectors(channels, [&](int64_t c, auto get, auto) {
      const Vec g = get(gradient + c);
      sums = log ? add(sums, g) : fma(g, get(y + c), sums);
    });
    const Vec sum = sum_in_all_lanes(sums);
    for_vectors(channels, [&](int64_t c, auto get, auto put) {
      const Vec g = get(gradient + c), value = get(y + c);
      put(dst + c, log ? fnma(exp(value), sum, g) : mul(value, sub(g, sum)));
    });
  }
}

}  // namespace
}  // namespace convlane
