// Vec: the widest float vector of the instruction set being compiled. Only the files of vec/ have intrinsics.
//
// Included by kernels/isa/<isa>.cpp, which defines CONVLANE_VEC_<ISA> first; kernels are written once over these
// names. Everything sits in an anonymous namespace: the file is compiled once per instruction set, and merged
// copies would run AVX-512 on a CPU without it.
//
// Each vec/<isa>.h has kIsa, kLanes (floats per vector), kRegisters, the types Vec, IntVec and Mask, and the functions
// that vec/generic.h shows in plain code. Without instructions for rounding and powers of two it includes vec/powers.h,
// which builds them from additions and shifts of IntVec. Of the functions:
//
// - fma(a, b, c) is a * b + c, fnma(a, b, c) is c - a * b, each rounded once where there is an instruction for it.
// - max(a, b) and min(a, b) are a > b ? a : b and a < b ? a : b, as x86's maxps and minps: when either operand is NaN,
//   and for zeros of either sign, they return b. So max(low, x) keeps x's NaN, max(x, low) drops it. Other
//   architectures' instructions differ (ARM's fmax returns NaN, its fmaxnm the number): there it takes a comparison
//   and a selection.
// - round(a) takes |a| < 2^22, halves to even; times_power_of_2(a, n) is a * 2^n for whole |n| <= 252, and reaches
//   infinity and the denormals.
// - small_power_of_2(n + kRounding) is 2^(n / 2^kPowerBits - 32) for whole n, within the range of normal numbers.
// - permute(a, index) has a[index[i]] in lane i, 0 <= index[i] < kLanes.
// - A vector is a row of quads of four floats: load_quads(p, stride) reads quad q from p + q * stride, and
//   interleave_low (high) gives in each quad a0 b0 a1 b1 (a2 b2 a3 b3).
#pragma once

#include <cstdint>

#if defined(CONVLANE_VEC_AVX512)
#include "kernels/vec/avx512.h"
#elif defined(CONVLANE_VEC_AVX2)
#include "kernels/vec/avx2.h"
#else
#include "kernels/vec/generic.h"
#endif

namespace convlane {
namespace {

// Prefetches the cache line at `p`. A hint: any address will do.
CONVLANE_INLINE void prefetch(const float* p) { __builtin_prefetch(p, 0, 3); }

CONVLANE_INLINE Vec zero() { return broadcast(0.0f); }

// Adding this rounds |a| < 2^22 to an integer and leaves it in the low bits.
constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23

// Keeps a loaded value in a register. GCC otherwise folds the load into each of its uses, which makes kernels that load
// once and use often load-bound.
CONVLANE_INLINE Vec in_register(Vec a) {
#if defined(__x86_64__)
  asm("" : "+v"(a));
#endif
  return a;
}

// NaN when either operand is: max keeps the NaN in one order of operands, and the bitwise or preserves it, because a
// NaN's exponent is all ones and the mantissas only gain bits. Equal operands are unchanged.
CONVLANE_INLINE Vec max_or_nan(Vec a, Vec b) { return bit_or(max(a, b), max(b, a)); }

// The same for the minimum.
CONVLANE_INLINE Vec min_or_nan(Vec a, Vec b) { return bit_or(min(a, b), min(b, a)); }

// One byte per lane, 0 or 1; the last, partial vector.
CONVLANE_INLINE Mask load_bools(const std::uint8_t* p, int n) {
  std::uint8_t bytes[kLanes] = {};
  for (int i = 0; i < n; ++i) bytes[i] = p[i];
  return load_bools(bytes);
}
CONVLANE_INLINE void store_bools(std::uint8_t* p, Mask a, int n) {
  std::uint8_t bytes[kLanes];
  store_bools(bytes, a);
  for (int i = 0; i < n; ++i) p[i] = bytes[i];
}

// A mask of the lanes below n.
CONVLANE_INLINE Mask lanes_before(int n) {
  float index[kLanes];
  for (int i = 0; i < kLanes; ++i) index[i] = static_cast<float>(i);
  return greater(broadcast(static_cast<float>(n)), load(index));
}

// Calls run(c, get, put) for the vectors of a row; get and put load and store whole vectors or the last, partial one.
template <class Run>
CONVLANE_INLINE void for_vectors(int64_t channels, const Run& run) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes)
    run(c, [](const float* p) { return load(p); }, [](float* p, Vec x) { store(p, x); });
  const int tail = static_cast<int>(channels - c);
  if (tail > 0) run(c, [=](const float* p) { return load(p, tail); }, [=](float* p, Vec x) { store(p, x, tail); });
}

// Joins each lane with the one half a vector away, then a quarter and so on: f of all lanes, in every lane.
template <class F>
CONVLANE_INLINE Vec fold_lanes(Vec a, const F& f) {
  CONVLANE_UNROLL
  for (int half = kLanes / 2; half > 0; half /= 2) {
    std::int32_t other[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) other[lane] = lane ^ half;
    a = f(a, permute(a, load_int(other)));
  }
  return a;
}

// Sums the lanes in index order, so that the result does not depend on the compiler.
CONVLANE_INLINE float sum_lanes(Vec a) {
  float lanes[kLanes], sum = 0;
  store(lanes, a);
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

}  // namespace
}  // namespace convlane
