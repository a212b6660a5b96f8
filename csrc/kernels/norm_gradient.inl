// The gradients of batch and group normalisation in two passes: sums per channel, then the gradient of the input. A
// fused activation is differentiated at the normalised value, which is recomputed from the input with the forward
// pass's own instructions, so that neither a mask nor that value is stored.
#pragma once

#include "kernels/activation.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// The gradient of the activation's input in row `row`, channels from `c` on.
template <class Load, class Gradient>
CONVLANE_INLINE Vec gradient_before(const NormGradientArgs& a, int64_t at, Vec centered, Vec scale, Vec shift,
                                    const Load& get, const Gradient& f) {
  const Vec gradient = get(a.gradient + at);
  if (a.kept == nullptr) return f(fma(centered, scale, shift), gradient);
  const Vec kept = get(a.kept + at);
  return f(a.kept_is_output ? kept : add(fma(centered, scale, shift), kept), gradient);
}

// `Rows` rows at a time: sums are loaded and stored once for all of them, and memory is read in as many streams.
template <int Rows, class Load, class Store, class Gradient>
CONVLANE_INLINE void sum_rows(const NormGradientArgs& a, int64_t row, int64_t c, const Load& get, const Store& put,
                              const Gradient& f) {
  const Vec center = get(a.center + c), scale = get(a.scale + c), shift = get(a.shift + c);
  Vec sum = get(a.sums + c), product = get(a.products + c);
  CONVLANE_UNROLL
  for (int r = 0; r < Rows; ++r) {
    const int64_t at = (row + r) * a.row_stride + c;
    const Vec centered = sub(get(a.src + at), center);
    const Vec gradient = gradient_before(a, at, centered, scale, shift, get, f);
    if (a.masked != nullptr) put(a.masked + at, gradient);
    sum = add(sum, gradient);
    product = fma(gradient, centered, product);
  }
  put(a.sums + c, sum);
  put(a.products + c, product);
}

void norm_gradient_sums(const NormGradientArgs& a) {
  constexpr int kRows = 4;
  with_activation_gradient(a.activation, a.slope, a.kept_is_output, [&](auto f) {
    int64_t row = 0;
    for (; row + kRows <= a.rows; row += kRows)
      for_vectors(a.channels, [&](int64_t c, auto get, auto put) { sum_rows<kRows>(a, row, c, get, put, f); });
    for (; row < a.rows; ++row)
      for_vectors(a.channels, [&](int64_t c, auto get, auto put) { sum_rows<1>(a, row, c, get, put, f); });
  });
}

void norm_gradient(const NormGradientArgs& a) {
  with_activation_gradient(a.activation, a.slope, a.kept_is_output, [&](auto f) {
    for (int64_t row = 0; row < a.rows; ++row)
      for_vectors(a.channels, [&](int64_t c, auto get, auto put) {
        const int64_t at = row * a.row_stride + c;
        const Vec scale = get(a.scale + c), centered = sub(get(a.src + at), get(a.center + c));
        const Vec gradient = gradient_before(a, at, centered, scale, get(a.shift + c), get, f);
        const bool given = a.factor == nullptr;
        put(a.dst + at,
            mul(scale, given ? gradient : fnma(centered, get(a.factor + c), sub(gradient, get(a.offset + c)))));
      });
  });
}

void group_norm_gradient(const NormGradientArgs& a) {
  for (int64_t row = 0; row < a.rows; ++row)
    for_vectors(a.channels, [&](int64_t c, auto get, auto put) {
      const int64_t at = row * a.row_stride + c;
      const Vec own = sub(mul(get(a.gradient + at), get(a.scale + c)), get(a.offset + c));
      put(a.dst + at, fnma(sub(get(a.src + at), get(a.center + c)), get(a.factor + c), own));
    });
}

}  // namespace
}  // namespace convlane
