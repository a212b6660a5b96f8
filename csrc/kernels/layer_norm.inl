// Layer normalisation: each row by its own mean and variance, or by its mean square.
#pragma once

#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// The sum over a row of value(c, get): vector by vector, then number by number for the rest, because a partial vector
// would sum values of lanes that do not exist. Blocks of a long row are added up in double.
template <class Value>
CONVLANE_INLINE float sum_row(int64_t channels, const Value& value) {
  constexpr int64_t kBlock = 256 * kLanes;
  const int64_t whole = channels - channels % kLanes;
  double total = 0;
  for (int64_t block = 0; block < whole; block += kBlock) {
    const int64_t end = block + kBlock < whole ? block + kBlock : whole;
    Vec sum = zero();
    for (int64_t c = block; c < end; c += kLanes) sum = add(sum, value([=](const float* p) { return load(p + c); }));
    total += static_cast<double>(sum_lanes(sum));
  }
  for (int64_t c = whole; c < channels; ++c) {
    float lanes[kLanes];
    store(lanes, value([=](const float* p) { return broadcast(p[c]); }));
    total += static_cast<double>(lanes[0]);
  }
  return static_cast<float>(total);
}

// x -> (x - center - rest) * scale. Values are taken relative to the first one and then to their mean, so that a large
// common offset costs no digits, as in `moments`. Not centered: x -> x * scale.
template <bool Centered>
struct RowNorm {
  Vec center, rest, scale;
  CONVLANE_INLINE Vec operator()(Vec x) const { return mul(Centered ? sub(sub(x, center), rest) : x, scale); }
};

template <bool Centered>
CONVLANE_INLINE RowNorm<Centered> row_norm(const float* src, int64_t channels, float eps) {
  const float count = static_cast<float>(channels);
  Vec center = zero();
  float rest = 0;
  if constexpr (Centered) {
    const Vec first = broadcast(src[0]);
    center = broadcast(src[0] + sum_row(channels, [=](auto get) { return sub(get(src), first); }) / count);
    rest = sum_row(channels, [=](auto get) { return sub(get(src), center); }) / count;
  }
  const float square = sum_row(channels, [=](auto get) {
    const Vec deviation = sub(get(src), center);
    return mul(deviation, deviation);
  });
  const float variance = square / count - rest * rest;
  return {center, broadcast(rest), div(broadcast(1.0f), sqrt(broadcast(variance + eps)))};
}

template <bool Centered>
CONVLANE_INLINE void layer_norm_rows(const LayerNormArgs& a) {
  const float* src = a.src;
  float* dst = a.dst;
  for (int64_t row = 0; row < a.rows; ++row, src += a.channels, dst += a.channels) {
    const auto norm = row_norm<Centered>(src, a.channels, a.eps);
    for_vectors(a.channels, [&](int64_t c, auto get, auto put) {
      put(dst + c, fma(norm(get(src + c)), get(a.weight + c), get(a.bias + c)));
    });
  }
}

void layer_norm(const LayerNormArgs& a) { a.centered ? layer_norm_rows<true>(a) : layer_norm_rows<false>(a); }

// With g = gradient * weight and x the normalised values: scale * (g - mean of g - x * mean of g * x); without the
// middle term if not centered.
template <bool Centered>
CONVLANE_INLINE void layer_norm_rows_gradient(const LayerNormArgs& a) {
  const float *src = a.src, *gradient = a.gradient;
  const float count = static_cast<float>(a.channels);
  for (int64_t row = 0; row < a.rows; ++row, src += a.channels, gradient += a.channels) {
    const auto norm = row_norm<Centered>(src, a.channels, a.eps);
    if (a.products != nullptr) {
      for_vectors(a.channels, [&](int64_t c, auto get, auto put) {
        const Vec g = get(gradient + c);
        put(a.products + c, fma(g, norm(get(src + c)), get(a.products + c)));
        put(a.sums + c, add(g, get(a.sums + c)));
      });
    }
    if (a.dst == nullptr) continue;
    Vec mean = zero();
    if constexpr (Centered)
      mean = broadcast(sum_row(a.channels, [&](auto get) { return mul(get(gradient), get(a.weight)); }) / count);
    const Vec product = broadcast(
        sum_row(a.channels, [&](auto get) { return mul(mul(get(gradient), get(a.weight)), norm(get(src))); }) / count);
    float* dst = a.dst + row * a.channels;
    for_vectors(a.channels, [&](int64_t c, auto get, auto put) {
      const Vec g = mul(get(gradient + c), get(a.weight + c));
      put(dst + c, mul(norm.scale, sub(sub(g, mean), mul(norm(get(src + c)), product))));
    });
  }
}

void layer_norm_gradient(const LayerNormArgs& a) {
  a.centered ? layer_norm_rows_gradient<true>(a) : layer_norm_rows_gradient<false>(a);
}

}  // namespace
}  // namespace convlane
