// Filters of pictures: sums of shifted rows of pixels, and the conversion from bytes to the numbers that are summed.
//
// Lanes are neighbouring pixels (or their colours), so that a picture of one channel fills vectors, too.
#pragma once

#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// Vectors at once: while one sum waits for its multiply-add the others proceed, and all share a weight.
constexpr int kFiltered = 8;

template <int Vectors>
CONVLANE_INLINE void filter_run(const FilterArgs<float>& f, int64_t x) {
  Vec sums[Vectors];
  CONVLANE_UNROLL
  for (int v = 0; v < Vectors; ++v) sums[v] = zero();
  for (int64_t t = 0; t < f.tap_count; ++t) {
    const FilterTap<float>& tap = f.taps[t];
    const float* src = f.rows[tap.row] + tap.offset + x;
    const Vec weight = broadcast(tap.weight);
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) sums[v] = fma(weight, load(src + v * kLanes), sums[v]);
  }
  CONVLANE_UNROLL
  for (int v = 0; v < Vectors; ++v) store(f.dst + x + v * kLanes, sums[v]);
}

void filter_row(const FilterArgs<float>& f) {
  int64_t x = 0;
  for (; x + kFiltered * kLanes <= f.count; x += kFiltered * kLanes) filter_run<kFiltered>(f, x);
  for (; x + kLanes <= f.count; x += kLanes) filter_run<1>(f, x);
  if (x == f.count) return;
  const int lanes = static_cast<int>(f.count - x);
  Vec sum = zero();
  for (int64_t t = 0; t < f.tap_count; ++t) {
    const FilterTap<float>& tap = f.taps[t];
    sum = fma(broadcast(tap.weight), load(f.rows[tap.row] + tap.offset + x, lanes), sum);
  }
  store(f.dst + x, sum, lanes);
}

// As wide as Vec. Only multiplied and added, for which the compiler's vector types suffice.
constexpr int kDoubles = kLanes / 2;
typedef double DoubleVec __attribute__((vector_size(kDoubles * sizeof(double))));

CONVLANE_INLINE DoubleVec load_doubles(const double* p) {
  DoubleVec v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <int Vectors>
CONVLANE_INLINE void filter_run(const FilterArgs<double>& f, int64_t x) {
  DoubleVec sums[Vectors];
  CONVLANE_UNROLL
  for (int v = 0; v < Vectors; ++v) sums[v] = DoubleVec{};
  for (int64_t t = 0; t < f.tap_count; ++t) {
    const FilterTap<double>& tap = f.taps[t];
    const double* src = f.rows[tap.row] + tap.offset + x;
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) sums[v] += tap.weight * load_doubles(src + v * kDoubles);
  }
  CONVLANE_UNROLL
  for (int v = 0; v < Vectors; ++v) __builtin_memcpy(f.dst + x + v * kDoubles, &sums[v], sizeof(sums[v]));
}

void filter_row_double(const FilterArgs<double>& f) {
  int64_t x = 0;
  for (; x + kFiltered * kDoubles <= f.count; x += kFiltered * kDoubles) filter_run<kFiltered>(f, x);
  for (; x + kDoubles <= f.count; x += kDoubles) filter_run<1>(f, x);
  for (; x < f.count; ++x) {
    double sum = 0;
    for (int64_t t = 0; t < f.tap_count; ++t) sum += f.taps[t].weight * f.rows[f.taps[t].row][f.taps[t].offset + x];
    f.dst[x] = sum;
  }
}

void widen_bytes(const std::uint8_t* src, int64_t count, float* dst) {
  for (int64_t i = 0; i < count; ++i) dst[i] = static_cast<float>(src[i]);
}

void narrow_to_bytes(const float* src, int64_t count, float slack, std::uint8_t* dst) {
  constexpr float kMost = 2147483520.0f;  // the largest float that fits into 32 bits
  for (int64_t i = 0; i < count; ++i) {
    const float outward = src[i] + (src[i] < 0 ? -slack : slack);
    const float bounded = outward > -kMost ? (outward < kMost ? outward : kMost) : -kMost;
    dst[i] = static_cast<std::uint8_t>(static_cast<std::int32_t>(bounded));
  }
}

}  // namespace
}  // namespace convlane
