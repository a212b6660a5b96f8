// Resampling of images: weighted sums of rows and of pixels, and their gradients.
#pragma once

#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// Vectors at once: while one sum waits for its multiply-add the others proceed.
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

// A weight of 0 contributes nothing, not even a NaN.
template <int Taps>
CONVLANE_INLINE void blend_vectors(const float* row, const int64_t* index, const float* weights, int64_t pixels,
                                   int64_t channels, float* dst) {
  for (int64_t p = 0; p < pixels; ++p, index += Taps, weights += Taps, dst += channels) {
    const float* from[Taps];
    Vec weight[Taps];
    int taken = 0;
    for (int k = 0; k < Taps; ++k) {
      if (weights[k] == 0) continue;
      from[taken] = row + index[k] * channels;
      weight[taken++] = broadcast(weights[k]);
    }
    if (taken == Taps) {
      for_vectors(channels, [&](int64_t c, auto get, auto put) {
        Vec sum = mul(weight[0], get(from[0] + c));
        CONVLANE_UNROLL
        for (int k = 1; k < Taps; ++k) sum = fma(weight[k], get(from[k] + c), sum);
        put(dst + c, sum);
      });
    } else {
      for_vectors(channels, [&](int64_t c, auto get, auto put) {
        Vec sum = zero();
        for (int k = 0; k < taken; ++k) sum = fma(weight[k], get(from[k] + c), sum);
        put(dst + c, sum);
      });
    }
  }
}

// As blend_vectors. Where a picture is enlarged, neighbours often depend on the same pixels, which are loaded once for
// both.
template <int Taps>
CONVLANE_INLINE void blend_pairs(const float* row, const int64_t* index, const float* weights, int64_t pixels,
                                 int64_t channels, float* dst) {
  while (pixels > 0) {
    bool alike = pixels > 1;
    for (int k = 0; alike && k < Taps; ++k)
      alike = index[k] == index[Taps + k] && weights[k] != 0 && weights[Taps + k] != 0;
    if (alike) {
      const float* from[Taps];
      Vec weight[2 * Taps];
      CONVLANE_UNROLL
      for (int k = 0; k < Taps; ++k) {
        from[k] = row + index[k] * channels;
        weight[k] = broadcast(weights[k]);
        weight[Taps + k] = broadcast(weights[Taps + k]);
      }
      for_vectors(channels, [&](int64_t c, auto get, auto put) {
        Vec x = get(from[0] + c);
        Vec sum = mul(weight[0], x), next = mul(weight[Taps], x);
        CONVLANE_UNROLL
        for (int k = 1; k < Taps; ++k) {
          x = get(from[k] + c);
          sum = fma(weight[k], x, sum);
          next = fma(weight[Taps + k], x, next);
        }
        put(dst + c, sum);
        put(dst + channels + c, next);
      });
    } else {
      blend_vectors<Taps>(row, index, weights, 1, channels, dst);
    }
    const int64_t done = alike ? 2 : 1;
    pixels -= done;
    index += done * Taps;
    weights += done * Taps;
    dst += done * channels;
  }
}

CONVLANE_INLINE void blend_many(const float* row, const int64_t* index, const float* weights, int64_t taps,
                                int64_t pixels, int64_t channels, float* dst) {
  for (int64_t p = 0; p < pixels; ++p, index += taps, weights += taps, dst += channels)
    for_vectors(channels, [&](int64_t c, auto get, auto put) {
      Vec sum = zero();
      for (int64_t k = 0; k < taps; ++k)
        if (weights[k] != 0) sum = fma(broadcast(weights[k]), get(row + index[k] * channels + c), sum);
      put(dst + c, sum);
    });
}

// With few channels a pixel is shorter than a vector.
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
  if (taps == 1) return blend_pairs<1>(row, index, weights, pixels, channels, dst);
  if (taps == 2) return blend_pairs<2>(row, index, weights, pixels, channels, dst);
  if (taps == 4) return blend_vectors<4>(row, index, weights, pixels, channels, dst);
  blend_many(row, index, weights, taps, pixels, channels, dst);
}

void scatter_pixels(const float* src, const int64_t* index, const float* weights, int64_t taps, int64_t pixels,
                    int64_t channels, int64_t stride, float* dst) {
  for (int64_t p = 0; p < pixels; ++p, index += taps, weights += taps, src += stride)
    for (int64_t k = 0; k < taps; ++k) {
      if (weights[k] == 0) continue;
      float* to = dst + index[k] * stride;
      const Vec weight = broadcast(weights[k]);
      for_vectors(channels,
                  [&](int64_t c, auto get, auto put) { put(to + c, fma(weight, get(src + c), get(to + c))); });
    }
}

void dot_pixels(const float* row, const int64_t* index, int64_t taps, int64_t pixels, int64_t channels,
                const float* src, float* dst) {
  for (int64_t p = 0; p < pixels; ++p, index += taps, src += channels, dst += taps)
    for (int64_t k = 0; k < taps; ++k) {
      Vec sum = zero();
      if (index[k] >= 0)
        for_vectors(channels, [&](int64_t c, auto get, auto) {
          sum = fma(get(row + index[k] * channels + c), get(src + c), sum);
        });
      dst[k] = sum_lanes(sum);
    }
}

}  // namespace
}  // namespace convlane
