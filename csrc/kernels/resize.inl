// Resampling along the axes of images: weighted sums of rows, and of the pixels of a row.
#pragma once

#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// Vectors at once: while one sum waits for its multiply-add the others go on.
constexpr int kBlended = 4;

void blend_rows(const float* const* rows, const float* weights, int64_t count, int64_t length, float* dst) {
  int64_t i = 0;
  for (; i + kBlended * kLanes <= length; i += kBlended * kLanes) {
    Vec sums[kBlended];
    CONVLANE_UNROLL
    for (int v = 0; v < kBlended; ++v) sums[v] = zero();
    for (int64_t k = 0; k < count; ++k) {
      const Vec weight = broadcast(weights[k]);
      CONVLANE_UNROLL
      for (int v = 0; v < kBlended; ++v) sums[v] = fma(weight, load(rows[k] + i + v * kLanes), sums[v]);
    }
    CONVLANE_UNROLL
    for (int v = 0; v < kBlended; ++v) store(dst + i + v * kLanes, sums[v]);
  }
  for_vectors(length - i, [&](int64_t j, auto get, auto put) {
    Vec sum = zero();
    for (int64_t k = 0; k < count; ++k) sum = fma(broadcast(weights[k]), get(rows[k] + i + j), sum);
    put(dst + i + j, sum);
  });
}

// A weight of 0 takes nothing, not even a NaN.
CONVLANE_INLINE void blend_vectors(const float* row, const int64_t* index, const float* weights, int64_t taps,
                                   int64_t pixels, int64_t channels, float* dst) {
  for (int64_t p = 0; p < pixels; ++p, index += taps, weights += taps, dst += channels)
    for_vectors(channels, [&](int64_t c, auto get, auto put) {
      Vec sum = zero();
      for (int64_t k = 0; k < taps; ++k)
        if (weights[k] != 0) sum = fma(broadcast(weights[k]), get(row + index[k] * channels + c), sum);
      put(dst + c, sum);
    });
}

CONVLANE_INLINE void pick_vectors(const float* row, const int64_t* index, const float* weights, int64_t pixels,
                                  int64_t channels, float* dst) {
  for (int64_t p = 0; p < pixels; ++p, dst += channels)
    for_vectors(channels, [&](int64_t c, auto get, auto put) {
      put(dst + c, weights[p] != 0 ? mul(broadcast(weights[p]), get(row + index[p] * channels + c)) : zero());
    });
}

// With few channels a pixel is less than a vector.
CONVLANE_INLINE void blend_few_channels(const float* row, const int64_t* index, const float* weights, int64_t taps,
                                        int64_t pixels, int64_t channels, float* dst) {
  for (int64_t p = 0; p < pixels; ++p, index += taps, weights += taps, dst += channels)
    for (int64_t c = 0; c < channels; ++c) {
      float sum = 0;
      for (int64_t k = 0; k < taps; ++k)
        if (weights[k] != 0) sum += weights[k] * row[index[k] * channels + c];
      dst[c] = sum;
    }
}

void blend_pixels(const float* row, const int64_t* index, const float* weights, int64_t taps, int64_t pixels,
                  int64_t channels, float* dst) {
  if (channels < 4) return blend_few_channels(row, index, weights, taps, pixels, channels, dst);
  if (taps == 1) return pick_vectors(row, index, weights, pixels, channels, dst);
  if (taps == 2) return blend_vectors(row, index, weights, 2, pixels, channels, dst);
  blend_vectors(row, index, weights, taps, pixels, channels, dst);
}

}  // namespace
}  // namespace convlane
