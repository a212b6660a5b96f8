// Softmax of rows: e^(x - max) / sum, where the largest exponent is 0, so that nothing overflows.
#pragma once

#include "kernels/activation.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// The last lanes of a row; those beyond its end count as -inf, whose exponential is 0.
CONVLANE_INLINE Vec load_or_minus_infinity(const float* p, int n) {
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i < n ? p[i] : -__builtin_inff();
  return load(lanes);
}

// A NaN may be lost in the maximum, but not in the sum; inf - inf makes rows with +inf or nothing but -inf NaN.
void softmax(const float* src, float* dst, int64_t rows, int64_t channels, bool log) {
  const int64_t whole = channels - channels % kLanes;
  const int tail = static_cast<int>(channels - whole);
  for (int64_t row = 0; row < rows; ++row, src += channels, dst += channels) {
    const Vec last = load_or_minus_infinity(src + whole, tail);
    Vec top = last;
    for (int64_t c = 0; c < whole; c += kLanes) top = max(top, load(src + c));
    top = broadcast(max_lanes(top));

    const Vec last_power = exp(sub(last, top));
    Vec sums = zero();
    for (int64_t c = 0; c < whole; c += kLanes) {
      const Vec power = exp(sub(load(src + c), top));
      sums = add(sums, power);
      if (!log) store(dst + c, power);
    }
    const float sum = sum_lanes(tail > 0 ? add(sums, last_power) : sums);

    if (log) {
      const Vec log_sum = broadcast(static_cast<float>(__builtin_log(static_cast<double>(sum))));
      for (int64_t c = 0; c < whole; c += kLanes) store(dst + c, sub(sub(load(src + c), top), log_sum));
      if (tail > 0) store(dst + whole, sub(sub(last, top), log_sum), tail);
    } else {
      const Vec factor = broadcast(1.0f / sum);
      for (int64_t c = 0; c < whole; c += kLanes) store(dst + c, mul(load(dst + c), factor));
      if (tail > 0) store(dst + whole, mul(last_power, factor), tail);
    }
  }
}

}  // namespace
}  // namespace convlane
