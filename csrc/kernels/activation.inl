// Activations on vectors: one definition for the stand-alone operation and for every kernel's epilogue.
#pragma once

#include "kernels/exp_log.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// 1 / (1 + e^-x), with numerator and denominator scaled by 2^-32, so that e^-x stays finite where the quotient is
// denormal. From 30 on the result is 1.
CONVLANE_INLINE Vec sigmoid(Vec x) {
  constexpr float kStep = 1.0f / (1 << kPowerBits);
  x = max(broadcast(-104.5f), min(broadcast(30.0f), x));
  const Vec sum = fma(x, broadcast(-1.44269504088896341f / kStep), broadcast(kRounding));
  const Vec n = sub(sum, broadcast(kRounding));
  const Vec u = fma(n, broadcast(kLn2Low * kStep), fma(n, broadcast(kLn2High * kStep), x));
  const Vec one = broadcast(0x1p-32f);
  return div(one, fma(small_power_of_2(sum), exp_of_minus<kPowerBits>(u), one));
}

// Cephes' tanhf: an odd polynomial below 0.625, where 1 - 2 / (e^2x + 1) would cancel; x itself (so -0.0 stays) where
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

CONVLANE_INLINE Vec hardsigmoid(Vec x) {
  return mul(min(broadcast(6.0f), max(zero(), add(x, broadcast(3.0f)))), broadcast(1.0f / 6.0f));
}

CONVLANE_INLINE Vec hardswish(Vec x) { return mul(x, hardsigmoid(x)); }

// The tail of the normal distribution above t, 0 <= t <= kTail or NaN: ratio * power * 2^n, where power * 2^n is
// e^(-t^2 / 2). The square is split at multiples of 1/256, whose squares are exact, so that the exponential loses no
// digits. Mills' ratio is a polynomial in (t - 3.5) / (t + 3.5), divided by t + 3.5, with a relative error of 2^-25.
constexpr float kTail = 14.7f;  // beyond it the tail is 0
struct NormalTail {
  Vec ratio, power, n;
};
CONVLANE_INLINE NormalTail normal_tail(Vec t) {
  const Vec coarse = mul(round(mul(t, broadcast(256.0f))), broadcast(1.0f / 256.0f));
  const Vec high = mul(mul(coarse, coarse), broadcast(0.5f));
  const Vec low = mul(mul(sub(t, coarse), add(t, coarse)), broadcast(0.5f));
  const Vec n = round(mul(add(high, low), broadcast(-1.44269504088896341f)));
  const Vec u = fma(n, broadcast(kLn2Low), add(add(high, mul(n, broadcast(kLn2High))), low));

  const Vec inverse = div(broadcast(1.0f), add(t, broadcast(3.5f)));
  const Vec s = mul(sub(t, broadcast(3.5f)), inverse);
  Vec p = broadcast(9.41017715e-5f);
  p = fma(p, s, broadcast(4.05415980e-4f));
  p = fma(p, s, broadcast(-4.73701832e-4f));
  p = fma(p, s, broadcast(-3.15532112e-3f));
  p = fma(p, s, broadcast(6.48379326e-3f));
  p = fma(p, s, broadcast(1.73989274e-2f));
  p = fma(p, s, broadcast(-1.16051391e-1f));
  p = fma(p, s, broadcast(3.15425932e-1f));
  p = fma(p, s, broadcast(-5.65561831e-1f));
  p = fma(p, s, broadcast(7.44416058e-1f));
  return {mul(p, inverse), exp_of_minus<0>(u), n};
}

// x times the normal distribution function at x: it falls short of x or, for negative x, of 0 by |x| times the tail.
// -0.0 stays. Negative values are multiplied by 0 beyond the tail, as in silu: they become -0.0, and minus infinity
// becomes NaN.
CONVLANE_INLINE Vec gelu(Vec x) {
  const Vec t = min(broadcast(kTail), abs(x));
  const NormalTail tail = normal_tail(t);
  const Vec lacking = times_power_of_2(mul(mul(tail.ratio, t), tail.power), tail.n);
  return sub(select(greater(zero(), x), mul(x, zero()), x), lacking);
}

// log(1 + e^x), where e^x neither overflows nor is negligible beside 1.
CONVLANE_INLINE Vec softplus(Vec x) { return add(max(zero(), x), log1p(exp(sub(zero(), abs(x))))); }

CONVLANE_INLINE Vec logsigmoid(Vec x) { return sub(zero(), softplus(sub(zero(), x))); }

// selu's constants (Klambauer et al. 2017).
constexpr float kSeluScale = 1.0507009873554805f, kSeluScaleAlpha = 1.7580993408473766f;

CONVLANE_INLINE Vec above_zero(Vec x, Vec above, Vec below) { return select(greater(x, zero()), above, below); }

CONVLANE_INLINE Vec softsign(Vec x) { return div(x, add(abs(x), broadcast(1.0f))); }

// x tanh(softplus(x)): with p = e^x, x n / (n + 2), where n = p^2 + 2 p. From 20 on the quotient is 1.
CONVLANE_INLINE Vec mish(Vec x) {
  const Vec power = exp(min(broadcast(20.0f), x)), two = broadcast(2.0f);
  const Vec n = mul(power, add(power, two));
  return mul(x, div(n, add(n, two)));
}

// gelu with tanh in place of the normal distribution, x (1 + tanh t) / 2 = x sigmoid(2 t), where 2 t is twice_t(x) = 2
// sqrt(2 / pi) (x + 0.044715 x^3).
constexpr float kTanhLinear = 1.5957691216057308f, kTanhCubic = 0.07135481627260025f;
CONVLANE_INLINE Vec twice_t(Vec x) { return mul(x, fma(mul(x, x), broadcast(kTanhCubic), broadcast(kTanhLinear))); }
CONVLANE_INLINE Vec gelu_tanh(Vec x) { return mul(x, sigmoid(twice_t(x))); }

// none, relu and relu6 are a single clamp, cheap enough to apply to every register of a tile without a branch.
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
    case Activation::hardsigmoid:
      return use([](Vec x) { return hardsigmoid(x); });
    case Activation::sigmoid:
      return use([](Vec x) { return sigmoid(x); });
    case Activation::tanh:
      return use([](Vec x) { return tanh(x); });
    case Activation::gelu:
      return use([](Vec x) { return gelu(x); });
    case Activation::gelu_tanh:
      return use([](Vec x) { return gelu_tanh(x); });
    case Activation::elu:
      return use([=](Vec x) { return above_zero(x, x, mul(slope_v, expm1(x))); });
    case Activation::celu:
      return use([=](Vec x) { return above_zero(x, x, mul(slope_v, expm1(div(x, slope_v)))); });
    case Activation::selu:
      return use([](Vec x) {
        return above_zero(x, mul(x, broadcast(kSeluScale)), mul(expm1(x), broadcast(kSeluScaleAlpha)));
      });
    case Activation::softsign:
      return use([](Vec x) { return softsign(x); });
    case Activation::mish:
      return use([](Vec x) { return mish(x); });
    case Activation::logsigmoid:
      return use([](Vec x) { return logsigmoid(x); });
    case Activation::none:
    case Activation::relu:
    case Activation::relu6: {
      const Clamp clamp(activation);
      return use([=](Vec x) { return clamp(x); });
    }
  }
}

// The derivative of the sigmoid, e^-|x| / (1 + e^-|x|)^2: it avoids the cancellation in s (1 - s) where s is near 1.
CONVLANE_INLINE Vec sigmoid_slope(Vec x) {
  const Vec power = exp(sub(zero(), abs(x)));
  const Vec inverse = div(broadcast(1.0f), add(power, broadcast(1.0f)));
  return mul(mul(power, inverse), inverse);
}

// s (1 + x (1 - s)). x is clamped, because infinity times 0 is not the limit.
CONVLANE_INLINE Vec silu_slope(Vec x) {
  const Vec near = max(broadcast(-104.0f), min(broadcast(104.0f), x));
  return fma(near, sigmoid_slope(near), sigmoid(near));
}

CONVLANE_INLINE Vec hardswish_slope(Vec x) {
  const Vec inner = fma(x, broadcast(1.0f / 3.0f), broadcast(0.5f));
  const Vec upper = select(at_most(broadcast(3.0f), x), broadcast(1.0f), inner);
  return select(at_most(x, broadcast(-3.0f)), zero(), upper);
}

// The normal distribution function at x plus x times the density.
CONVLANE_INLINE Vec gelu_slope(Vec x) {
  const Vec t = min(broadcast(kTail), abs(x));
  const NormalTail tail = normal_tail(t);
  const Vec below = times_power_of_2(mul(fnma(t, broadcast(0.39894228040f), tail.ratio), tail.power), tail.n);
  return select(greater(zero(), x), below, sub(broadcast(1.0f), below));
}

CONVLANE_INLINE Vec softsign_slope(Vec x) {
  const Vec inverse = div(broadcast(1.0f), add(abs(x), broadcast(1.0f)));
  return mul(inverse, inverse);
}

// With p and n as in mish: n / (n + 2) + x 4 p (p + 1) / (n + 2)^2, whose last term is 0 beyond the bounds.
CONVLANE_INLINE Vec mish_slope(Vec x) {
  const Vec near = max(broadcast(-105.0f), min(broadcast(20.0f), x));
  const Vec power = exp(near), one = broadcast(1.0f), two = broadcast(2.0f);
  const Vec n = mul(power, add(power, two)), inverse = div(one, add(n, two));
  const Vec rise = mul(mul(mul(broadcast(4.0f), mul(power, add(power, one))), inverse), inverse);
  return fma(near, rise, mul(n, inverse));
}

// s + x s' (2 t)' with s and 2 t as in gelu_tanh. Beyond the bounds s' is 0.
CONVLANE_INLINE Vec gelu_tanh_slope(Vec x) {
  const Vec near = max(broadcast(-12.0f), min(broadcast(12.0f), x)), at = twice_t(near);
  const Vec rise = fma(mul(near, near), broadcast(3 * kTanhCubic), broadcast(kTanhLinear));
  return fma(mul(near, rise), sigmoid_slope(at), sigmoid(at));
}

// Calls use(f): f(at, gradient) is the gradient of the activation's input, where `at` is that input or, with
// `from_output`, the activation's output (only where ops/ allows that). At a corner the derivative is that of the flat
// side; where a clamping activation met a NaN, the gradient is passed on.
template <class Use>
CONVLANE_INLINE void with_activation_gradient(Activation activation, float slope, bool from_output, Use use) {
  const Vec slope_v = broadcast(slope);
  const Vec low = broadcast(from_output ? 0.0f : -3.0f), high = broadcast(from_output ? 1.0f : 3.0f);  // hardsigmoid's
  switch (activation) {
    case Activation::none:
      return use([](Vec, Vec gradient) { return gradient; });
    case Activation::relu:
      return use([](Vec at, Vec gradient) { return select(at_most(at, zero()), zero(), gradient); });
    case Activation::relu6:
      return use([](Vec at, Vec gradient) {
        return select(either(at_most(at, zero()), at_most(broadcast(6.0f), at)), zero(), gradient);
      });
    case Activation::leaky_relu:
      return use([=](Vec at, Vec gradient) { return select(greater(at, zero()), gradient, mul(gradient, slope_v)); });
    case Activation::silu:
      return use([](Vec at, Vec gradient) { return mul(gradient, silu_slope(at)); });
    case Activation::hardswish:
      return use([](Vec at, Vec gradient) { return mul(gradient, hardswish_slope(at)); });
    case Activation::gelu:
      return use([](Vec at, Vec gradient) { return mul(gradient, gelu_slope(at)); });
    case Activation::gelu_tanh:
      return use([](Vec at, Vec gradient) { return mul(gradient, gelu_tanh_slope(at)); });
    case Activation::elu:
      return use(
          [=](Vec at, Vec gradient) { return mul(gradient, above_zero(at, broadcast(1.0f), mul(slope_v, exp(at)))); });
    case Activation::celu:
      return use(
          [=](Vec at, Vec gradient) { return mul(gradient, above_zero(at, broadcast(1.0f), exp(div(at, slope_v)))); });
    case Activation::selu:
      return use([](Vec at, Vec gradient) {
        return mul(gradient, above_zero(at, broadcast(kSeluScale), mul(exp(at), broadcast(kSeluScaleAlpha))));
      });
    case Activation::softsign:
      return use([](Vec at, Vec gradient) { return mul(gradient, softsign_slope(at)); });
    case Activation::mish:
      return use([](Vec at, Vec gradient) { return mul(gradient, mish_slope(at)); });
    case Activation::logsigmoid:
      return use([](Vec at, Vec gradient) { return mul(gradient, sigmoid(sub(zero(), at))); });
    case Activation::hardsigmoid:
      return use([=](Vec at, Vec gradient) {
        const Mask outside = either(at_most(at, low), at_most(high, at));
        return select(outside, zero(), mul(gradient, broadcast(1.0f / 6.0f)));
      });
    case Activation::sigmoid:
      if (from_output) return use([](Vec at, Vec gradient) { return mul(gradient, fnma(at, at, at)); });
      return use([](Vec at, Vec gradient) { return mul(gradient, sigmoid_slope(at)); });
    case Activation::tanh:
      if (from_output) return use([](Vec at, Vec gradient) { return mul(gradient, fnma(at, at, broadcast(1.0f))); });
      return use([](Vec at, Vec gradient) { return mul(gradient, mul(broadcast(4.0f), sigmoid_slope(add(at, at)))); });
  }
}

// dst may be src.
void activate(const float* src, float* dst, int64_t count, Activation activation, float slope) {
  with_activation(activation, slope, [=](auto f) { map(src, dst, count, f); });
}

// dst may be gradient.
void activation_gradient(const float* at, const float* gradient, float* dst, int64_t count, Activation activation,
                         float slope, bool from_output) {
  with_activation_gradient(activation, slope, from_output, [=](auto f) {
    for_vectors(count, [=](int64_t i, auto get, auto put) { put(dst + i, f(get(at + i), get(gradient + i))); });
  });
}

// Applies an activation that is too long to be inlined into a kernel to `rows` runs of `columns` floats that the kernel
// has just stored, in place. Not inlined, or every tile shape would contain a copy.
__attribute__((noinline)) void activate_rows(float* dst, int64_t rows, int64_t stride, int64_t columns,
                                             const Epilogue& epilogue) {
  with_activation(epilogue.activation, epilogue.slope, [=](auto f) {
    for (int64_t i = 0; i < rows; ++i) map(dst + i * stride, dst + i * stride, columns, f);
  });
}

}  // namespace
}  // namespace convlane
