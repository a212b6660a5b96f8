// Exponentials and logarithms of vectors.
#pragma once

#include "kernels/vec.h"

namespace convlane {
namespace {

// (1 - e^-u) / u for |u| <= ln2 / 2.
CONVLANE_INLINE Vec quotient_of_minus(Vec u) {
  Vec p = broadcast(1.3863756994e-3f);
  p = fnma(p, u, broadcast(8.3675091755e-3f));
  p = fnma(p, u, broadcast(4.1667238770e-2f));
  p = fnma(p, u, broadcast(1.6666533803e-1f));
  p = fnma(p, u, broadcast(0.5f));
  return fnma(p, u, broadcast(1.0f));
}

// e^-u for |u| <= ln2 / 2^(Bits + 1). Bits = 0: the degree-6 polynomial with the least relative error (2^-28) that
// begins with 1 - u + u^2 / 2. Bits = 4: degree 3, with the quadratic coefficient adjusted, for the same error of
// 2^-28.
template <int Bits>
CONVLANE_INLINE Vec exp_of_minus(Vec u) {
  static_assert(Bits == 0 || Bits == 4, "no polynomial for this number of bits");
  if constexpr (Bits == 4) {
    Vec p = fnma(broadcast(1.0f / 6.0f), u, broadcast(0.50001955f));
    p = fnma(p, u, broadcast(1.0f));
    return fnma(p, u, broadcast(1.0f));
  }
  return fnma(quotient_of_minus(u), u, broadcast(1.0f));
}

// Cephes' ln 2 in two parts; products of the first with integers are exact.
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

// e^x for -105 <= x <= 89 or NaN.
CONVLANE_INLINE Vec exp_in_range(Vec x) {
  const Vec n = round(mul(x, broadcast(1.44269504088896341f)));
  const Vec u = fma(n, broadcast(kLn2Low), sub(mul(n, broadcast(kLn2High)), x));
  return times_power_of_2(exp_of_minus<0>(u), n);
}

// e^x: 0 or infinity beyond the bounds; NaN stays NaN.
CONVLANE_INLINE Vec exp(Vec x) { return exp_in_range(max(broadcast(-104.5f), min(broadcast(89.0f), x))); }

// e^x - 1 for x <= 88 or NaN; x itself (so -0.0 stays) where the square is below half a unit in the last place. With
// e^x = 2^n e^-u this is 2^n (e^-u - 1) + (2^n - 1), whose last term is exact, and zero where n is 0.
CONVLANE_INLINE Vec expm1(Vec x) {
  const Vec near = max(broadcast(-25.0f), min(broadcast(88.0f), x)), one = broadcast(1.0f);
  const Vec n = round(mul(near, broadcast(1.44269504088896341f)));
  const Vec u = fma(n, broadcast(kLn2Low), sub(mul(n, broadcast(kLn2High)), near));
  const Vec small = mul(sub(zero(), u), quotient_of_minus(u));
  const Vec power = times_power_of_2(one, n);
  return select(greater(abs(x), broadcast(0x1p-25f)), fma(power, small, sub(power, one)), x);
}

// Cephes' logf: x = m * 2^e with m from sqrt(1/2) to sqrt(2), log(m) by a polynomial in m - 1. Within 1 unit in the
// last place (all floats, 2026-11-26).
CONVLANE_INLINE Vec log(Vec x) {
  constexpr std::int32_t kHalfRoot = 0x3f3504f3;  // sqrt(1/2)
  const Mask small = greater(broadcast(0x1p-126f), x);
  const IntVec bits = as_int(select(small, mul(x, broadcast(0x1p23f)), x));
  const IntVec exponent = shift_right<23>(sub(bits, broadcast_int(kHalfRoot)));
  const Vec e = add(to_float(exponent), select(small, broadcast(-23.0f), zero()));
  const Vec m = sub(as_float(sub(bits, shift_left<23>(exponent))), broadcast(1.0f));
  const Vec square = mul(m, m);
  Vec p = broadcast(7.0376836292e-2f);
  p = fma(p, m, broadcast(-1.1514610310e-1f));
  p = fma(p, m, broadcast(1.1676998740e-1f));
  p = fma(p, m, broadcast(-1.2420140846e-1f));
  p = fma(p, m, broadcast(1.4249322787e-1f));
  p = fma(p, m, broadcast(-1.6668057665e-1f));
  p = fma(p, m, broadcast(2.0000714765e-1f));
  p = fma(p, m, broadcast(-2.4999993993e-1f));
  p = fma(p, m, broadcast(3.3333331174e-1f));
  Vec y = fma(e, broadcast(kLn2Low), mul(mul(p, m), square));
  y = fnma(broadcast(0.5f), square, y);
  y = fma(e, broadcast(kLn2High), add(m, y));
  // Infinity and NaN are returned as they are; 0 gives minus infinity, negative numbers NaN.
  y = select(greater(broadcast(__builtin_inff()), x), y, x);
  y = select(equal(x, zero()), broadcast(-__builtin_inff()), y);
  return select(greater(zero(), x), broadcast(__builtin_nanf("")), y);
}

// What rounding loses of 1 + x is a small fraction of 1 + x; adding that fraction corrects the logarithm (Kahan).
CONVLANE_INLINE Vec log1p(Vec x) {
  const Vec one = broadcast(1.0f), sum = in_register(add(one, x));
  const Vec lost = sub(x, in_register(sub(sum, one)));
  const Vec y = add(log(sum), div(lost, sum));
  const Mask corrected = both(greater(sum, zero()), greater(broadcast(0x1p60f), sum));  // 0 / 0 for x = -1
  return select(greater(broadcast(0x1p-24f), abs(x)), x, select(corrected, y, log(sum)));
}

}  // namespace
}  // namespace convlane
