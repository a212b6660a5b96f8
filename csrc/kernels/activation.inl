// Activations on vectors: one definition for the stand-alone operation and for every kernel's epilogue.
#pragma once

#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// e^x: Cephes' range reduction (ln 2 in two parts) and a degree-6 polynomial on [-ln2/2, ln2/2]. The
// argument is clamped to where results are 0 or infinity; NaN passes.
CONVLANE_INLINE Vec exp(Vec x) {
  const Vec clamped = max(broadcast(-104.5f), min(broadcast(89.0f), x));
  const Vec n = round(mul(clamped, broadcast(1.44269504088896341f)));
  Vec r = fma(n, broadcast(-0.693359375f), clamped);
  r = fma(n, broadcast(2.12194440e-4f), r);
  Vec p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = add(fma(mul(p, r), r, r), broadcast(1.0f));
  return times_power_of_2(p, n);
}

// With z = e^-|x|, 1 / (1 + z) or z / (1 + z): no overflow, and results reach the denormals at the far end.
CONVLANE_INLINE Vec sigmoid(Vec x) {
  const Vec one = broadcast(1.0f);
  const Vec z = exp(sub(zero(), abs(x)));
  return div(select(greater(zero(), x), z, one), add(one, z));
}

// Cephes' tanhf: an odd polynomial below 0.625, where 1 - 2 / (e^2x + 1) would cancel; x itself (and so -0.0) where
// the cubic term is below half a unit in the last place.
CONVLANE_INLINE Vec tanh(Vec x) {
  const Vec one = broadcast(1.0f), two = broadcast(2.0f);
  const Vec square = mul(x, x);
  Vec p = broadcast(-5.70498872745e-3f);
  p = fma(p, square, broadcast(2.06390887954e-2f));
  p = fma(p, square, broadcast(-5.37397155531e-2f));
  p = fma(p, square, broadcast(1.33314422036e-1f));
  p = fma(p, square, broadcast(-3.33332819422e-1f));
  const Vec small = fma(mul(p, square), x, x);
  const Vec large = sub(one, div(two, add(exp(mul(two, x)), one)));
  const Vec size = abs(x);
  return select(greater(size, broadcast(0.625f)), large, select(greater(size, broadcast(1e-4f)), small, x));
}

CONVLANE_INLINE Vec hardswish(Vec x) {
  const Vec gate = min(broadcast(6.0f), max(zero(), add(x, broadcast(3.0f))));
  return mul(x, mul(gate, broadcast(1.0f / 6.0f)));
}

// none, relu and relu6 are one clamp, cheap enough to apply to every register of a tile without a branch.
struct Clamp {
  Vec low, high;
  explicit CONVLANE_INLINE Clamp(Activation activation)
      : low(broadcast(activation == Activation::relu || activation == Activation::relu6 ? 0.0f : -__builtin_inff())),
        high(broadcast(activation == Activation::relu6 ? 6.0f : __builtin_inff())) {}
  CONVLANE_INLINE Vec operator()(Vec x) const { return min(high, max(low, x)); }
};

CONVLANE_INLINE bool is_clamp(Activation activation) {
  return activation == Activation::none || activation == Activation::relu || activation == Activation::relu6;
}

template <class F>
CONVLANE_INLINE void map(const float* src, float* dst, int64_t count, F f) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(dst + i, f(load(src + i)));
  if (i < count) store(dst + i, f(load(src + i, static_cast<int>(count - i))), static_cast<int>(count - i));
}

// Calls use(f) with the activation as a function of a vector.
template <class Use>
CONVLANE_INLINE void with_activation(Activation activation, float slope, Use use) {
  const Vec slope_v = broadcast(slope);
  switch (activation) {
    case Activation::leaky_relu:
      return use([=](Vec x) { return select(greater(x, zero()), x, mul(x, slope_v)); });
    case Activation::silu:
      return use([](Vec x) { return mul(x, sigmoid(x)); });
    case Activation::hardswish:
      return use([](Vec x) { return hardswish(x); });
    case Activation::sigmoid:
      return use([](Vec x) { return sigmoid(x); });
    case Activation::tanh:
      return use([](Vec x) { return tanh(x); });
    case Activation::none:
    case Activation::relu:
    case Activation::relu6: {
      const Clamp clamp(activation);
      return use([=](Vec x) { return clamp(x); });
    }
  }
}

// dst may be src.
void activate(const float* src, float* dst, int64_t count, Activation activation, float slope) {
  with_activation(activation, slope, [=](auto f) { map(src, dst, count, f); });
}

// In place, `rows` runs of `columns` floats: what a kernel has just stored and is too long an activation for its
// registers. Out of line, as every tile shape would hold a copy.
__attribute__((noinline)) void activate_rows(float* dst, int64_t rows, int64_t stride, int64_t columns,
                                             const Epilogue& epilogue) {
  with_activation(epilogue.activation, epilogue.slope, [=](auto f) {
    for (int64_t i = 0; i < rows; ++i) map(dst + i * stride, dst + i * stride, columns, f);
  });
}

}  // namespace
}  // namespace convlane
