// Vectors of 4 floats, as GNU C has them: SSE2 on x86-64, NEON on ARM, plain code elsewhere.
#pragma once

#include <cstdint>

#include "kernels/vec/inline.h"
#include "runtime/cpu.h"

namespace convlane {
namespace {

constexpr Isa kIsa = Isa::generic;
constexpr int kLanes = 4;
constexpr int kRegisters = 16;
typedef float Vec __attribute__((vector_size(16)));
typedef std::int32_t IntVec __attribute__((vector_size(16)));
typedef std::uint32_t UnsignedVec __attribute__((vector_size(16)));
using Mask = IntVec;

CONVLANE_INLINE Vec load(const float* p) {
  Vec a;
  __builtin_memcpy(&a, p, sizeof(a));
  return a;
}
CONVLANE_INLINE Vec load(const float* p, int n) {
  Vec a = {0, 0, 0, 0};
  for (int i = 0; i < n; ++i) a[i] = p[i];
  return a;
}
CONVLANE_INLINE void store(float* p, Vec a) { __builtin_memcpy(p, &a, sizeof(a)); }
CONVLANE_INLINE void store(float* p, Vec a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a[i];
}
CONVLANE_INLINE void store(std::int32_t* p, IntVec a) { __builtin_memcpy(p, &a, sizeof(a)); }
CONVLANE_INLINE IntVec load_int(const std::int32_t* p) {
  IntVec a;
  __builtin_memcpy(&a, p, sizeof(a));
  return a;
}
CONVLANE_INLINE IntVec load_int(const std::int32_t* p, int n) {
  IntVec a = {0, 0, 0, 0};
  for (int i = 0; i < n; ++i) a[i] = p[i];
  return a;
}
CONVLANE_INLINE Vec broadcast(float x) { return Vec{x, x, x, x}; }
CONVLANE_INLINE IntVec broadcast_int(std::int32_t x) { return IntVec{x, x, x, x}; }
CONVLANE_INLINE Vec add(Vec a, Vec b) { return a + b; }
CONVLANE_INLINE Vec sub(Vec a, Vec b) { return a - b; }
CONVLANE_INLINE Vec mul(Vec a, Vec b) { return a * b; }
CONVLANE_INLINE Vec div(Vec a, Vec b) { return a / b; }
CONVLANE_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
CONVLANE_INLINE Vec fnma(Vec a, Vec b, Vec c) { return c - a * b; }
CONVLANE_INLINE Vec as_float(IntVec a) { return reinterpret_cast<Vec>(a); }
CONVLANE_INLINE IntVec as_int(Vec a) { return reinterpret_cast<IntVec>(a); }
CONVLANE_INLINE Mask greater(Vec a, Vec b) { return a > b; }
CONVLANE_INLINE Mask at_most(Vec a, Vec b) { return a <= b; }
CONVLANE_INLINE Mask equal(IntVec a, IntVec b) { return a == b; }
CONVLANE_INLINE Mask equal(Vec a, Vec b) { return a == b; }
CONVLANE_INLINE Mask is_nan(Vec a) { return a != a; }
CONVLANE_INLINE Mask either(Mask a, Mask b) { return a | b; }
CONVLANE_INLINE Mask both(Mask a, Mask b) { return a & b; }
CONVLANE_INLINE Mask inverse(Mask a) { return ~a; }
CONVLANE_INLINE bool any(Mask a) { return (a[0] | a[1] | a[2] | a[3]) != 0; }
CONVLANE_INLINE Mask load_bools(const std::uint8_t* p) { return Mask{p[0], p[1], p[2], p[3]} != 0; }
CONVLANE_INLINE void store_bools(std::uint8_t* p, Mask a) {
  for (int i = 0; i < kLanes; ++i) p[i] = a[i] != 0;
}
CONVLANE_INLINE IntVec select(Mask m, IntVec yes, IntVec no) { return (yes & m) | (no & ~m); }
CONVLANE_INLINE Vec select(Mask m, Vec yes, Vec no) { return as_float(select(m, as_int(yes), as_int(no))); }
CONVLANE_INLINE Vec max(Vec a, Vec b) { return select(a > b, a, b); }
CONVLANE_INLINE Vec min(Vec a, Vec b) { return select(a < b, a, b); }
CONVLANE_INLINE Vec sqrt(Vec a) {
  return Vec{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]), __builtin_sqrtf(a[3])};
}
CONVLANE_INLINE Vec abs(Vec a) { return as_float(as_int(a) & 0x7fffffff); }
CONVLANE_INLINE Vec bit_or(Vec a, Vec b) { return as_float(as_int(a) | as_int(b)); }
CONVLANE_INLINE Vec to_float(IntVec a) { return __builtin_convertvector(a, Vec); }
// Integers wrap around, as those of the other instruction sets do.
CONVLANE_INLINE IntVec add(IntVec a, IntVec b) {
  return reinterpret_cast<IntVec>(reinterpret_cast<UnsignedVec>(a) + reinterpret_cast<UnsignedVec>(b));
}
CONVLANE_INLINE IntVec sub(IntVec a, IntVec b) {
  return reinterpret_cast<IntVec>(reinterpret_cast<UnsignedVec>(a) - reinterpret_cast<UnsignedVec>(b));
}
// Adding 1.5 * 2^23 leaves the rounded integer in the low mantissa bits; exact for |a| < 2^22, garbage (but no
// undefined behaviour) beyond and for NaN, as the callers expect.
CONVLANE_INLINE IntVec round_to_int(Vec a) { return sub(as_int(a + 12582912.0f), broadcast_int(0x4b400000)); }
template <int Bits>
CONVLANE_INLINE IntVec shift_left(IntVec a) {
  return reinterpret_cast<IntVec>(reinterpret_cast<UnsignedVec>(a) << Bits);
}
template <int Bits>
CONVLANE_INLINE IntVec shift_right(IntVec a) {
  return a >> Bits;
}

CONVLANE_INLINE Vec permute(Vec a, IntVec index) { return Vec{a[index[0]], a[index[1]], a[index[2]], a[index[3]]}; }
CONVLANE_INLINE Vec load_quads(const float* p, int64_t) { return load(p); }
CONVLANE_INLINE Vec interleave_low(Vec a, Vec b) { return Vec{a[0], b[0], a[1], b[1]}; }
CONVLANE_INLINE Vec interleave_high(Vec a, Vec b) { return Vec{a[2], b[2], a[3], b[3]}; }

}  // namespace
}  // namespace convlane

#include "kernels/vec/powers.h"
