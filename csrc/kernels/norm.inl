// Normalisation: statistics of channels over rows, and local response normalisation across the channels of a pixel.
#pragma once

#include "kernels/activation.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// One run of `Vectors` vectors of channels over a chunk of rows that stays in the cache between the two passes. Values
// are taken relative to the first row, then to the mean, so that a large common offset costs no digits
// (the corrected two-pass algorithm: Chan, Golub, LeVeque, The American Statistician 37, 1983).
template <int Vectors>
CONVLANE_INLINE void moments_of_run(const float* src, int64_t rows, int64_t channels, int lanes, double* mean,
                                    double* squares) {
  const auto at = [=](int64_t row, int v) {
    const float* p = src + row * channels + v * kLanes;
    return lanes == kLanes ? load(p) : load(p, lanes);
  };
  Vec first[Vectors], sum[Vectors], center[Vectors], rest[Vectors], square[Vectors];
  CONVLANE_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    first[v] = at(0, v);
    sum[v] = rest[v] = square[v] = zero();
  }
  for (int64_t row = 0; row < rows; ++row) {
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) sum[v] = add(sum[v], sub(at(row, v), first[v]));
  }
  const Vec count = broadcast(static_cast<float>(rows));
  CONVLANE_UNROLL
  for (int v = 0; v < Vectors; ++v) center[v] = add(first[v], div(sum[v], count));
  for (int64_t row = 0; row < rows; ++row) {
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const Vec deviation = sub(at(row, v), center[v]);
      rest[v] = add(rest[v], deviation);
      square[v] = fma(deviation, deviation, square[v]);
    }
  }
  const double n = static_cast<double>(rows);
  CONVLANE_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    float centers[kLanes], rests[kLanes], squares_v[kLanes];
    store(centers, center[v]);
    store(rests, rest[v]);
    store(squares_v, square[v]);
    for (int i = 0; i < lanes; ++i) {
      const double correction = static_cast<double>(rests[i]) / n;
      mean[v * kLanes + i] = static_cast<double>(centers[i]) + correction;
      squares[v * kLanes + i] = static_cast<double>(squares_v[i]) - correction * correction * n;
    }
  }
}

void moments(const float* src, int64_t rows, int64_t channels, double* mean, double* squares) {
  int64_t c = 0;
  for (; c + 3 * kLanes <= channels; c += 3 * kLanes)
    moments_of_run<3>(src + c, rows, channels, kLanes, mean + c, squares + c);
  for (; c < channels; c += kLanes) {
    const int lanes = static_cast<int>(channels - c < kLanes ? channels - c : kLanes);
    moments_of_run<1>(src + c, rows, channels, lanes, mean + c, squares + c);
  }
}

// Subtracting first is exact near the center, where x * scale + (shift - center * scale) would cancel.
template <bool Residual, class Activate>
CONVLANE_INLINE void normalize_rows(const float* src, float* dst, int64_t rows, const NormalizeArgs& a,
                                    const Activate& activated) {
  const float* residual = a.residual;
  for (int64_t row = 0; row < rows; ++row, src += a.channels, dst += a.channels) {
    int64_t c = 0;
    for (; c + kLanes <= a.channels; c += kLanes) {
      const Vec y = fma(sub(load(src + c), load(a.center + c)), load(a.scale + c), load(a.shift + c));
      store(dst + c, activated(Residual ? add(y, load(residual + c)) : y));
    }
    const int tail = static_cast<int>(a.channels - c);
    if (tail > 0) {
      const Vec x = sub(load(src + c, tail), load(a.center + c, tail));
      const Vec y = fma(x, load(a.scale + c, tail), load(a.shift + c, tail));
      store(dst + c, activated(Residual ? add(y, load(residual + c, tail)) : y), tail);
    }
    if (Residual) residual += a.channels;
  }
}

void normalize(const float* src, float* dst, int64_t rows, const NormalizeArgs& a) {
  with_activation(a.activation, a.slope, [&](auto f) {
    if (a.residual != nullptr)
      normalize_rows<true>(src, dst, rows, a, f);
    else
      normalize_rows<false>(src, dst, rows, a, f);
  });
}

// 0.75 is the exponent of AlexNet and GoogLeNet; any other takes libm's powf, lane by lane.
CONVLANE_INLINE Vec power(Vec x, float exponent) {
  if (exponent == 0.75f) {
    const Vec root = sqrt(x);
    return mul(root, sqrt(root));
  }
  float lanes[kLanes];
  store(lanes, x);
  for (int i = 0; i < kLanes; ++i) lanes[i] = __builtin_powf(lanes[i], exponent);
  return load(lanes);
}

// Over the places from `back` before to `ahead` after each lane's own.
CONVLANE_INLINE Vec window_sum(const float* at, int64_t back, int64_t ahead) {
  Vec sum = load(at - back);
  for (int64_t t = 1 - back; t <= ahead; ++t) sum = add(sum, load(at + t));
  return sum;
}

// Every window is summed anew: adding one square and subtracting another would carry rounding errors, and a NaN, on.
void local_response(const float* src, float* dst, int64_t rows, const LocalResponseArgs& a) {
  float* const squares = a.scratch + a.before;
  for (int64_t i = 0; i < a.before + a.channels + a.after + kLanes; ++i) a.scratch[i] = 0;
  for (int64_t row = 0; row < rows; ++row, src += a.channels, dst += a.channels) {
    map(src, squares, a.channels, [](Vec x) { return mul(x, x); });
    for (int64_t c = 0; c < a.channels; c += kLanes) {
      const int lanes = static_cast<int>(a.channels - c < kLanes ? a.channels - c : kLanes);
      const Vec sum = window_sum(squares + c, a.before, a.after);
      const Vec divisor = power(fma(sum, broadcast(a.alpha), broadcast(a.k)), a.beta);
      store(dst + c, div(load(src + c, lanes), divisor), lanes);
    }
  }
}

// With d = k + alpha * sum of squares: gradient / d^beta - 2 alpha beta x * sum of gradient * x / d^(beta + 1) over the
// windows that x is in, which reach as far back as a window reaches ahead.
void local_response_gradient(const float* src, const float* gradient, float* dst, int64_t rows,
                             const LocalResponseArgs& a) {
  const int64_t padding = a.before + a.after, size = padding + a.channels + padding + kLanes;
  float* const squares = a.scratch + padding;
  float* const shares = squares + size;
  for (int64_t i = 0; i < 2 * size; ++i) a.scratch[i] = 0;
  const Vec factor = broadcast(-2 * a.alpha * a.beta);
  for (int64_t row = 0; row < rows; ++row, src += a.channels, gradient += a.channels, dst += a.channels) {
    map(src, squares, a.channels, [](Vec x) { return mul(x, x); });
    for_vectors(a.channels, [&](int64_t c, auto get, auto put) {
      const Vec sum = window_sum(squares + c, a.before, a.after);
      const Vec base = fma(sum, broadcast(a.alpha), broadcast(a.k));
      const Vec direct = div(get(gradient + c), power(base, a.beta));
      put(dst + c, direct);
      put(shares + c, div(mul(direct, get(src + c)), base));
    });
    for_vectors(a.channels, [&](int64_t c, auto get, auto put) {
      const Vec sum = window_sum(shares + c, a.after, a.before);
      put(dst + c, fma(mul(get(src + c), factor), sum, get(dst + c)));
    });
  }
}

}  // namespace
}  // namespace convlane
