// Functions whose float32 result is that of a double, rounded once: sines, the error function and powers.
//
// Terms that would cancel in float32, as in a sine's angle minus multiples of pi / 2 or a logarithm times a large
// exponent, need no care in double, and no constants depend on fused multiply-adds. Apart from errors of 2^-30 or less,
// only the last rounding counts: results are within 0.52 units in the last place.
#pragma once

#include "kernels/vec.h"

namespace convlane {
namespace {

// Applies f lane by lane; the compiler vectorises functions without branches.
template <class F>
CONVLANE_INLINE Vec lane_by_lane(Vec a, F f) {
  float lanes[kLanes];
  store(lanes, a);
  for (int i = 0; i < kLanes; ++i) lanes[i] = f(lanes[i]);
  return load(lanes);
}

template <class F>
CONVLANE_INLINE Vec lane_by_lane(Vec a, Vec b, F f) {
  float first[kLanes], second[kLanes];
  store(first, a);
  store(second, b);
  for (int i = 0; i < kLanes; ++i) first[i] = f(first[i], second[i]);
  return load(first);
}

CONVLANE_INLINE double mul_add(double a, double b, double c) {
  if constexpr (kIsa == Isa::generic) return a * b + c;
  return __builtin_fma(a, b, c);
}

CONVLANE_INLINE std::uint64_t bits_of(double a) {
  std::uint64_t bits;
  __builtin_memcpy(&bits, &a, sizeof(bits));
  return bits;
}

CONVLANE_INLINE double double_of(std::uint64_t bits) {
  double a;
  __builtin_memcpy(&a, &bits, sizeof(a));
  return a;
}

// Adding this rounds |a| < 2^51 to whole numbers, and leaves them in the low bits.
constexpr double kRoundDouble = 0x1.8p52;

// Beyond this, a whole number times the first part of pi / 2, which has 33 bits, would not be exact.
constexpr float kLargestAngle = 0x1p20f;

// sin(x + quarters * pi / 2) for |x| <= kLargestAngle or NaN. n * pi / 2 is subtracted from x in two parts (Cody and
// Waite): the first product and difference are exact, the second is within 2^-66, and no float32 number is as close to
// a multiple of pi / 2 as 2^-28. Then follows Taylor's series for at most pi / 4.
CONVLANE_INLINE float sine(float angle, std::uint64_t quarters) {
  constexpr double kFirst = 0x1.921fb544p0, kSecond = 0x1.0b4611a626331p-34;
  const double x = static_cast<double>(angle);
  const double shifted = mul_add(x, 0.63661977236758134, kRoundDouble), n = shifted - kRoundDouble;
  const double r = mul_add(n, -kSecond, mul_add(n, -kFirst, x)), square = r * r;
  double sin = mul_add(square, -1.0 / 39916800, 1.0 / 362880);
  sin = mul_add(sin, square, -1.0 / 5040);
  sin = mul_add(sin, square, 1.0 / 120);
  sin = mul_add(sin, square, -1.0 / 6);
  sin = mul_add(sin * square, r, r);
  double cos = mul_add(square, -1.0 / 3628800, 1.0 / 40320);
  cos = mul_add(cos, square, -1.0 / 720);
  cos = mul_add(cos, square, 1.0 / 24);
  cos = mul_add(cos, square, -0.5);
  cos = mul_add(cos, square, 1.0);
  const std::uint64_t quarter = bits_of(shifted) + quarters;
  const std::uint64_t takes_cos = 0 - (quarter & 1), sign = (quarter & 2) << 62;
  const std::uint64_t bits = (bits_of(cos) & takes_cos) | (bits_of(sin) & ~takes_cos);
  return static_cast<float>(double_of(bits ^ sign));
}

// As sine(), but the C library's result where the angle is larger than kLargestAngle.
template <class F>
CONVLANE_INLINE Vec sine_or(Vec x, std::uint64_t quarters, F larger) {
  const Vec y = lane_by_lane(x, [=](float a) { return sine(a, quarters); });
  const Mask is_larger = greater(abs(x), broadcast(kLargestAngle));
  return any(is_larger) ? select(is_larger, lane_by_lane(x, larger), y) : y;
}

CONVLANE_INLINE Vec sin(Vec x) {
  const Vec y = sine_or(x, 0, [](float a) { return __builtin_sinf(a); });
  return select(equal(x, zero()), x, y);  // -0.0 stays
}

CONVLANE_INLINE Vec cos(Vec x) {
  return sine_or(x, 1, [](float a) { return __builtin_cosf(a); });
}

// e^u as 2^n (1 + rest), for |u| < 700.
struct Power {
  double power_of_2, rest;
};

CONVLANE_INLINE Power power_of_e(double u) {
  const double shifted = mul_add(u, 1.4426950408889634, kRoundDouble), n = shifted - kRoundDouble;
  const double r = mul_add(n, -0.69314718055994531, u);  // |r| <= ln2 / 2
  double p = mul_add(r, 1.0 / 40320, 1.0 / 5040);        // Taylor's series, within 2^-32
  p = mul_add(p, r, 1.0 / 720);
  p = mul_add(p, r, 1.0 / 120);
  p = mul_add(p, r, 1.0 / 24);
  p = mul_add(p, r, 1.0 / 6);
  p = mul_add(p, r, 0.5);
  p = mul_add(p * r, r, r);
  return {double_of((bits_of(shifted) << 52) + bits_of(1.0)), p};
}

// 1 - e^(t q(t)) for t from 0 to 4 or NaN, q the polynomial closest to log(1 - erf(t)) / t there: the relative error
// of erf is 2^-31. (Weighted least squares, reweighted until the errors are even.)
CONVLANE_INLINE float error_function(float size) {
  const double t = static_cast<double>(size);
  double q = mul_add(t, -1.1933411873556167e-06, 2.1355004416233212e-05);
  q = mul_add(q, t, -1.6748255684138818e-04);
  q = mul_add(q, t, 7.4068914769600419e-04);
  q = mul_add(q, t, -1.7993575334347299e-03);
  q = mul_add(q, t, 2.5306338722671108e-04);
  q = mul_add(q, t, 1.9117694090201424e-02);
  q = mul_add(q, t, -1.0277127703596046e-01);
  q = mul_add(q, t, -6.3661983458280769e-01);
  q = mul_add(q, t, -1.1283791666277920e+00);
  const Power complement = power_of_e(q * t);
  return static_cast<float>(mul_add(-complement.power_of_2, complement.rest, 1.0 - complement.power_of_2));
}

CONVLANE_INLINE Vec sign_of(Vec a) { return as_float(shift_left<31>(shift_right<31>(as_int(a)))); }  // 0.0 or -0.0

// From 4 on erf rounds to 1.
CONVLANE_INLINE Vec erf(Vec x) {
  const Vec size = min(broadcast(4.0f), abs(x));
  return bit_or(lane_by_lane(size, [](float t) { return error_function(t); }), sign_of(x));
}

// x^y for normal or denormal x > 0 and finite y: e^(y log x), with x = m * 2^e, m from sqrt(1/2) to sqrt(2), and log(m)
// = 2 artanh((m - 1) / (m + 1)), by its series within 2^-40 of it.
CONVLANE_INLINE float power_of_positive(float x, float y) {
  constexpr std::uint64_t kHalfRoot = 0x3fe6a09e667f3bcd, kBias = 2048;
  const std::uint64_t bits = bits_of(static_cast<double>(x));
  const std::uint64_t biased = (bits - kHalfRoot + (kBias << 52)) >> 52;
  // Converted to double through the low bits of a double, for which AVX2 has vector instructions.
  const double e = double_of(biased + bits_of(0x1p52)) - (0x1p52 + kBias);
  const double m = double_of(bits - ((biased - kBias) << 52));
  const double s = (m - 1) / (m + 1), square = s * s;
  double log = mul_add(square, 1.0 / 13, 1.0 / 11);
  log = mul_add(log, square, 1.0 / 9);
  log = mul_add(log, square, 1.0 / 7);
  log = mul_add(log, square, 1.0 / 5);
  log = mul_add(log, square, 1.0 / 3);
  log = mul_add(log * square, s, s);
  const double u = static_cast<double>(y) * mul_add(e, 0.69314718055994531, 2 * log);
  const Power power = power_of_e(u < -200.0 ? -200.0 : u > 200.0 ? 200.0 : u);
  return static_cast<float>(mul_add(power.power_of_2, power.rest, power.power_of_2));
}

// x^y: the C library's result unless x is positive and both are finite.
CONVLANE_INLINE Vec power(Vec x, Vec y) {
  const Vec infinity = broadcast(__builtin_inff());
  const Vec found = lane_by_lane(x, y, [](float a, float b) { return power_of_positive(a, b); });
  const Mask is_other = inverse(both(both(greater(x, zero()), greater(infinity, x)), greater(infinity, abs(y))));
  if (!any(is_other)) return found;
  return select(is_other, lane_by_lane(x, y, [](float a, float b) { return __builtin_powf(a, b); }), found);
}

// Rounded once, as the product of doubles is exact but for its last 20 bits.
CONVLANE_INLINE Vec cube(Vec x) {
  return lane_by_lane(x, [](float a) {
    const double wide = static_cast<double>(a);
    return static_cast<float>(wide * wide * wide);
  });
}

}  // namespace
}  // namespace convlane
