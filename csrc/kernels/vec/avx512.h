// Vectors of 16 floats: AVX-512 F, BW, DQ and VL.
#pragma once

#include "kernels/vec/inline.h"
#include "kernels/vec/x86.h"
#include "runtime/cpu.h"

namespace convlane {
namespace {

constexpr Isa kIsa = Isa::avx512;
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
// The table is 2^(j / 16 - 32), j = 0 to 15, minus what the shift adds for j.
constexpr int kPowerBits = 4;
CONVLANE_INLINE Vec small_power_of_2(Vec sum) {
  const __m512i table =
      _mm512_setr_epi32(0x2f800000, 0x2f7daac3, 0x2f7b95c2, 0x2f79c3d3, 0x2f7837f0, 0x2f76f532, 0x2f75fed7, 0x2f75583f,
                        0x2f7504f3, 0x2f7508a4, 0x2f75672a, 0x2f76248c, 0x2f7744fd, 0x2f78ccdf, 0x2f7ac0c7, 0x2f7d257d);
  const __m512i n = _mm512_castps_si512(sum);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(n, 23 - 4), _mm512_permutexvar_epi32(n, table)));
}
CONVLANE_INLINE Vec permute(Vec a, IntVec index) { return _mm512_permutexvar_ps(index, a); }
CONVLANE_INLINE Vec load_quads(const float* p, int64_t stride) {
  const Vec first = _mm512_zextps128_ps512(_mm_loadu_ps(p));
  const Vec two = _mm512_insertf32x4(first, _mm_loadu_ps(p + stride), 1);
  const Vec three = _mm512_insertf32x4(two, _mm_loadu_ps(p + 2 * stride), 2);
  return _mm512_insertf32x4(three, _mm_loadu_ps(p + 3 * stride), 3);
}
CONVLANE_INLINE Vec interleave_low(Vec a, Vec b) { return _mm512_unpacklo_ps(a, b); }
CONVLANE_INLINE Vec interleave_high(Vec a, Vec b) { return _mm512_unpackhi_ps(a, b); }

}  // namespace
}  // namespace convlane
