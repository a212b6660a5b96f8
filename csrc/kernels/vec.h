// Vec: the widest float vector of the instruction set being compiled, and the only file with intrinsics.
//
// Included by kernels/isa/<isa>.cpp, which defines CONVLANE_VEC_<ISA> first; kernels are written once over these
// names. Everything sits in an anonymous namespace: the file is compiled once per instruction set, and merged
// copies would run AVX-512 on a CPU without it.
//
// fma(a, b, c) is a * b + c, fnma(a, b, c) is c - a * b.
// max and min follow x86: when either operand is NaN they return the second one. So max(low, x) keeps x's NaN.
//
// A vector is a row of quads of four floats: load_quads(p, stride) reads quad q from p + q * stride, and
// interleave_low (high) gives in each quad a0 b0 a1 b1 (a2 b2 a3 b3).
#pragma once

#include <cstdint>

#if defined(CONVLANE_VEC_AVX512) || defined(CONVLANE_VEC_AVX2)
// GCC's own header initialises "undefined" registers by themselves and warns of it (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#if defined(__clang__)
#define CONVLANE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define CONVLANE_UNROLL _Pragma("GCC unroll 32")
#endif
#define CONVLANE_INLINE inline __attribute__((always_inline))

namespace convlane {
namespace {

// Fetches the cache line at `p`, to be read soon. A hint: any address will do.
CONVLANE_INLINE void prefetch(const float* p) { __builtin_prefetch(p, 0, 3); }

#if defined(CONVLANE_VEC_AVX512)

constexpr int kLanes = 16;
constexpr int kRegisters = 32;
using Vec = __m512;
using IntVec = __m512i;
using Mask = __mmask16;

CONVLANE_INLINE Mask first_lanes(int n) { return static_cast<Mask>((1u << n) - 1); }
CONVLANE_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
CONVLANE_INLINE Vec load(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
CONVLANE_INLINE void store(float* p, Vec a) { _mm512_storeu_ps(p, a); }
CONVLANE_INLINE void store(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a); }
CONVLANE_INLINE void store(std::int32_t* p, IntVec a) { _mm512_storeu_si512(p, a); }
CONVLANE_INLINE IntVec load_int(const std::int32_t* p) { return _mm512_loadu_si512(p); }
CONVLANE_INLINE IntVec load_int(const std::int32_t* p, int n) { return _mm512_maskz_loadu_epi32(first_lanes(n), p); }
CONVLANE_INLINE Vec broadcast(float x) { return _mm512_set1_ps(x); }
CONVLANE_INLINE IntVec broadcast_int(std::int32_t x) { return _mm512_set1_epi32(x); }
CONVLANE_INLINE Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
CONVLANE_INLINE Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
CONVLANE_INLINE Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
CONVLANE_INLINE Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
CONVLANE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
CONVLANE_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }
CONVLANE_INLINE Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
CONVLANE_INLINE Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
CONVLANE_INLINE Vec sqrt(Vec a) { return _mm512_sqrt_ps(a); }
CONVLANE_INLINE Vec abs(Vec a) { return _mm512_abs_ps(a); }
CONVLANE_INLINE Vec bit_or(Vec a, Vec b) { return _mm512_or_ps(a, b); }
CONVLANE_INLINE Mask greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
CONVLANE_INLINE Mask at_most(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
CONVLANE_INLINE Mask equal(IntVec a, IntVec b) { return _mm512_cmpeq_epi32_mask(a, b); }
CONVLANE_INLINE Mask equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
CONVLANE_INLINE Mask is_nan(Vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
CONVLANE_INLINE Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
CONVLANE_INLINE Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
CONVLANE_INLINE Mask inverse(Mask a) { return static_cast<Mask>(~a); }
CONVLANE_INLINE bool any(Mask a) { return a != 0; }
CONVLANE_INLINE Mask load_bools(const std::uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm_test_epi8_mask(bytes, bytes);
}
CONVLANE_INLINE void store_bools(std::uint8_t* p, Mask a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_maskz_set1_epi8(a, 1));
}
CONVLANE_INLINE Vec select(Mask m, Vec yes, Vec no) { return _mm512_mask_blend_ps(m, no, yes); }
CONVLANE_INLINE IntVec select(Mask m, IntVec yes, IntVec no) { return _mm512_mask_blend_epi32(m, no, yes); }
CONVLANE_INLINE Vec to_float(IntVec a) { return _mm512_cvtepi32_ps(a); }
CONVLANE_INLINE IntVec add(IntVec a, IntVec b) { return _mm512_add_epi32(a, b); }
CONVLANE_INLINE IntVec sub(IntVec a, IntVec b) { return _mm512_sub_epi32(a, b); }
template <int Bits>
CONVLANE_INLINE IntVec shift_left(IntVec a) {
  return _mm512_slli_epi32(a, Bits);
}
template <int Bits>
CONVLANE_INLINE IntVec shift_right(IntVec a) {
  return _mm512_srai_epi32(a, Bits);
}
CONVLANE_INLINE Vec as_float(IntVec a) { return _mm512_castsi512_ps(a); }
CONVLANE_INLINE IntVec as_int(Vec a) { return _mm512_castps_si512(a); }
CONVLANE_INLINE Vec round(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
CONVLANE_INLINE Vec times_power_of_2(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }
// See below. The table is 2^(j / 16 - 32), j = 0 to 15, less what the shift adds for j.
constexpr int kPowerBits = 4;
CONVLANE_INLINE Vec small_power_of_2(Vec sum) {
  const __m512i table =
      _mm512_setr_epi32(0x2f800000, 0x2f7daac3, 0x2f7b95c2, 0x2f79c3d3, 0x2f7837f0, 0x2f76f532, 0x2f75fed7, 0x2f75583f,
                        0x2f7504f3, 0x2f7508a4, 0x2f75672a, 0x2f76248c, 0x2f7744fd, 0x2f78ccdf, 0x2f7ac0c7, 0x2f7d257d);
  const __m512i n = _mm512_castps_si512(sum);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(n, 23 - 4), _mm512_permutexvar_epi32(n, table)));
}
CONVLANE_INLINE Vec load_quads(const float* p, int64_t stride) {
  const Vec first = _mm512_zextps128_ps512(_mm_loadu_ps(p));
  const Vec two = _mm512_insertf32x4(first, _mm_loadu_ps(p + stride), 1);
  const Vec three = _mm512_insertf32x4(two, _mm_loadu_ps(p + 2 * stride), 2);
  return _mm512_insertf32x4(three, _mm_loadu_ps(p + 3 * stride), 3);
}
CONVLANE_INLINE Vec interleave_low(Vec a, Vec b) { return _mm512_unpacklo_ps(a, b); }
CONVLANE_INLINE Vec interleave_high(Vec a, Vec b) { return _mm512_unpackhi_ps(a, b); }

#elif defined(CONVLANE_VEC_AVX2)

constexpr int kLanes = 8;
constexpr int kRegisters = 16;
using Vec = __m256;
using IntVec = __m256i;
using Mask = __m256;

CONVLANE_INLINE __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
CONVLANE_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
CONVLANE_INLINE Vec load(const float* p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
CONVLANE_INLINE void store(float* p, Vec a) { _mm256_storeu_ps(p, a); }
CONVLANE_INLINE void store(float* p, Vec a, int n) { _mm256_maskstore_ps(p, first_lanes(n), a); }
CONVLANE_INLINE void store(std::int32_t* p, IntVec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
CONVLANE_INLINE IntVec load_int(const std::int32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
CONVLANE_INLINE IntVec load_int(const std::int32_t* p, int n) { return _mm256_maskload_epi32(p, first_lanes(n)); }
CONVLANE_INLINE Vec broadcast(float x) { return _mm256_set1_ps(x); }
CONVLANE_INLINE IntVec broadcast_int(std::int32_t x) { return _mm256_set1_epi32(x); }
CONVLANE_INLINE Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
CONVLANE_INLINE Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
CONVLANE_INLINE Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
CONVLANE_INLINE Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
CONVLANE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
CONVLANE_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }
CONVLANE_INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
CONVLANE_INLINE Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
CONVLANE_INLINE Vec sqrt(Vec a) { return _mm256_sqrt_ps(a); }
CONVLANE_INLINE Vec abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
CONVLANE_INLINE Vec bit_or(Vec a, Vec b) { return _mm256_or_ps(a, b); }
CONVLANE_INLINE Mask greater(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
CONVLANE_INLINE Mask at_most(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
CONVLANE_INLINE Mask equal(IntVec a, IntVec b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)); }
CONVLANE_INLINE Mask equal(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
CONVLANE_INLINE Mask is_nan(Vec a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
CONVLANE_INLINE Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
CONVLANE_INLINE Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
CONVLANE_INLINE Mask inverse(Mask a) { return _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-1))); }
CONVLANE_INLINE bool any(Mask a) { return _mm256_movemask_ps(a) != 0; }
CONVLANE_INLINE Mask load_bools(const std::uint8_t* p) {
  const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_cmpgt_epi32(wide, _mm256_setzero_si256()));
}
CONVLANE_INLINE void store_bools(std::uint8_t* p, Mask a) {
  const __m256i wide = _mm256_castps_si256(a);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  const __m128i ones = _mm_and_si128(_mm_packs_epi16(words, words), _mm_set1_epi8(1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), ones);
}
CONVLANE_INLINE Vec select(Mask m, Vec yes, Vec no) { return _mm256_blendv_ps(no, yes, m); }
CONVLANE_INLINE IntVec select(Mask m, IntVec yes, IntVec no) {
  return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(m));
}
CONVLANE_INLINE IntVec round_to_int(Vec a) { return _mm256_cvtps_epi32(a); }
CONVLANE_INLINE Vec to_float(IntVec a) { return _mm256_cvtepi32_ps(a); }
CONVLANE_INLINE IntVec add(IntVec a, IntVec b) { return _mm256_add_epi32(a, b); }
CONVLANE_INLINE IntVec sub(IntVec a, IntVec b) { return _mm256_sub_epi32(a, b); }
template <int Bits>
CONVLANE_INLINE IntVec shift_left(IntVec a) {
  return _mm256_slli_epi32(a, Bits);
}
template <int Bits>
CONVLANE_INLINE IntVec shift_right(IntVec a) {
  return _mm256_srai_epi32(a, Bits);
}
CONVLANE_INLINE Vec as_float(IntVec a) { return _mm256_castsi256_ps(a); }
CONVLANE_INLINE IntVec as_int(Vec a) { return _mm256_castps_si256(a); }
CONVLANE_INLINE Vec load_quads(const float* p, int64_t stride) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + stride), 1);
}
CONVLANE_INLINE Vec interleave_low(Vec a, Vec b) { return _mm256_unpacklo_ps(a, b); }
CONVLANE_INLINE Vec interleave_high(Vec a, Vec b) { return _mm256_unpackhi_ps(a, b); }

#else  // GNU vectors of 16 bytes: SSE2 on x86-64, NEON on ARM, plain code elsewhere

constexpr int kLanes = 4;
constexpr int kRegisters = 16;
typedef float Vec __attribute__((vector_size(16)));
typedef std::int32_t IntVec __attribute__((vector_size(16)));
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
// Adding 1.5 * 2^23 leaves the rounded integer in the low mantissa bits; exact for |a| < 2^22, garbage (but no
// undefined behaviour) beyond and for NaN, as the callers expect.
CONVLANE_INLINE IntVec round_to_int(Vec a) { return as_int(a + 12582912.0f) - 0x4b400000; }
CONVLANE_INLINE IntVec add(IntVec a, IntVec b) { return a + b; }
CONVLANE_INLINE IntVec sub(IntVec a, IntVec b) { return a - b; }
template <int Bits>
CONVLANE_INLINE IntVec shift_left(IntVec a) {
  return a << Bits;
}
template <int Bits>
CONVLANE_INLINE IntVec shift_right(IntVec a) {
  return a >> Bits;
}

CONVLANE_INLINE Vec load_quads(const float* p, int64_t) { return load(p); }
CONVLANE_INLINE Vec interleave_low(Vec a, Vec b) { return Vec{a[0], b[0], a[1], b[1]}; }
CONVLANE_INLINE Vec interleave_high(Vec a, Vec b) { return Vec{a[2], b[2], a[3], b[3]}; }

#endif

CONVLANE_INLINE Vec zero() { return broadcast(0.0f); }

#if !defined(CONVLANE_VEC_AVX512)
CONVLANE_INLINE Vec round(Vec a) { return to_float(round_to_int(a)); }  // |a| < 2^22

// a * 2^n for whole |n| <= 252, in two factors, so that results reach infinity and the denormals.
CONVLANE_INLINE Vec times_power_of_2(Vec a, Vec n) {
  const IntVec whole = round_to_int(n), half = shift_right<1>(whole), bias = broadcast_int(127);
  const Vec low = as_float(shift_left<23>(add(half, bias)));
  const Vec high = as_float(shift_left<23>(add(sub(whole, half), bias)));
  return mul(mul(a, low), high);
}
#endif

// Adding this rounds |a| < 2^22 to whole numbers, and leaves them in the low bits.
constexpr float kRounding = 12582912.0f;  // 1.5 * 2^23

// 2^(n / 2^kPowerBits - 32) for whole n, given n + kRounding; within the range of normal numbers.
#if !defined(CONVLANE_VEC_AVX512)
constexpr int kPowerBits = 0;
CONVLANE_INLINE Vec small_power_of_2(Vec sum) {
  return as_float(add(shift_left<23>(as_int(sum)), broadcast_int((127 - 32) << 23)));
}
#endif

// Keeps a loaded value in a register. GCC otherwise folds the load into each of its uses, and a kernel that lives on
// loading once and using often becomes bound by its loads.
CONVLANE_INLINE Vec in_register(Vec a) {
#if defined(__x86_64__)
  asm("" : "+v"(a));
#endif
  return a;
}

// NaN when either operand is: whichever order of operands kept the NaN survives the bitwise or, because a NaN's
// exponent is all ones and the mantissas only gain bits. Equal operands are unchanged.
CONVLANE_INLINE Vec max_or_nan(Vec a, Vec b) { return bit_or(max(a, b), max(b, a)); }

// The same for the smaller one.
CONVLANE_INLINE Vec min_or_nan(Vec a, Vec b) { return bit_or(min(a, b), min(b, a)); }

// One byte per lane, 0 or 1; the last part of a vector.
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

// Which lanes come before lane n.
CONVLANE_INLINE Mask lanes_before(int n) {
  float index[kLanes];
  for (int i = 0; i < kLanes; ++i) index[i] = static_cast<float>(i);
  return greater(broadcast(static_cast<float>(n)), load(index));
}

// Calls run(c, get, put) for the vectors of a row: functions that load and store whole vectors or the last part of one.
template <class Run>
CONVLANE_INLINE void for_vectors(int64_t channels, const Run& run) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes)
    run(c, [](const float* p) { return load(p); }, [](float* p, Vec x) { store(p, x); });
  const int tail = static_cast<int>(channels - c);
  if (tail > 0) run(c, [=](const float* p) { return load(p, tail); }, [=](float* p, Vec x) { store(p, x, tail); });
}

// The lanes in index order, so that the result does not depend on the compiler.
CONVLANE_INLINE float sum_lanes(Vec a) {
  float lanes[kLanes], sum = 0;
  store(lanes, a);
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

}  // namespace
}  // namespace convlane
