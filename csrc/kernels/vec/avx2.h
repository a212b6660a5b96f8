// Vectors of 8 floats: AVX2 and FMA.
#pragma once

#include "kernels/vec/inline.h"
#include "kernels/vec/x86.h"
#include "runtime/cpu.h"

namespace convlane {
namespace {

constexpr Isa kIsa = Isa::avx2;
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
CONVLANE_INLINE Vec permute(Vec a, IntVec index) { return _mm256_permutevar8x32_ps(a, index); }
CONVLANE_INLINE Vec load_quads(const float* p, int64_t stride) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + stride), 1);
}
CONVLANE_INLINE Vec interleave_low(Vec a, Vec b) { return _mm256_unpacklo_ps(a, b); }
CONVLANE_INLINE Vec interleave_high(Vec a, Vec b) { return _mm256_unpackhi_ps(a, b); }

}  // namespace
}  // namespace convlane

#include "kernels/vec/powers.h"
