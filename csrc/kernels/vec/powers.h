// Rounding and powers of two by integer arithmetic, for instruction sets without instructions for them.
#pragma once

namespace convlane {
namespace {

CONVLANE_INLINE Vec round(Vec a) { return to_float(round_to_int(a)); }  // |a| < 2^22

// a * 2^n for whole |n| <= 252, in two factors, so that results reach infinity and the denormals.
CONVLANE_INLINE Vec times_power_of_2(Vec a, Vec n) {
  const IntVec whole = round_to_int(n), half = shift_right<1>(whole), bias = broadcast_int(127);
  const Vec low = as_float(shift_left<23>(add(half, bias)));
  const Vec high = as_float(shift_left<23>(add(sub(whole, half), bias)));
  return mul(mul(a, low), high);
}

constexpr int kPowerBits = 0;  // fractional bits of small_power_of_2's exponent
CONVLANE_INLINE Vec small_power_of_2(Vec sum) {
  return as_float(add(shift_left<23>(as_int(sum)), broadcast_int((127 - 32) << 23)));
}

}  // namespace
}  // namespace convlane
