// Pooling of one row of output pixels, channels last: lanes are channels, so a window folds whole vectors and never
// looks across lanes. Maxima of 2x2 and 3x3 windows with stride 2 share the columns of a run of pixels; everything
// else takes the loop over taps.
#pragma once

#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

constexpr int kPoolVectors = kRegisters == 32 ? 4 : 2;  // of channels in flight
constexpr int kPoolSums = 4;  // per vector: tap s goes to number s % 4, which hides the latency of long windows
// Rows summed before they are added to the total, so that sums over large planes do not drift.
constexpr int64_t kPoolRows = 8;

struct FoldMax {
  CONVLANE_INLINE Vec start() const { return broadcast(-__builtin_inff()); }
  CONVLANE_INLINE Vec take(Vec folded, Vec x) const { return max_or_nan(folded, x); }
  CONVLANE_INLINE Vec join(Vec a, Vec b) const { return max_or_nan(a, b); }
  CONVLANE_INLINE Vec finish(Vec folded) const { return folded; }
};

struct FoldAverage {
  Vec divisor;
  CONVLANE_INLINE Vec start() const { return zero(); }
  CONVLANE_INLINE Vec take(Vec folded, Vec x) const { return add(folded, x); }
  CONVLANE_INLINE Vec join(Vec a, Vec b) const { return add(a, b); }
  CONVLANE_INLINE Vec finish(Vec folded) const { return div(folded, divisor); }
};

struct FoldSquares {
  Vec scale;
  CONVLANE_INLINE Vec start() const { return zero(); }
  CONVLANE_INLINE Vec take(Vec folded, Vec x) const { return fma(x, x, folded); }
  CONVLANE_INLINE Vec join(Vec a, Vec b) const { return add(a, b); }
  CONVLANE_INLINE Vec finish(Vec folded) const { return sqrt(mul(folded, scale)); }
};

struct FoldPowers {
  Vec scale;
  float exponent;
  static Vec power(Vec a, float exponent) {
    float lanes[kLanes];
    store(lanes, a);
    for (int i = 0; i < kLanes; ++i) lanes[i] = __builtin_powf(lanes[i], exponent);
    return load(lanes);
  }
  CONVLANE_INLINE Vec start() const { return zero(); }
  CONVLANE_INLINE Vec take(Vec folded, Vec x) const { return add(folded, power(abs(x), exponent)); }
  CONVLANE_INLINE Vec join(Vec a, Vec b) const { return add(a, b); }
  CONVLANE_INLINE Vec finish(Vec folded) const { return power(mul(folded, scale), 1.0f / exponent); }
};

template <bool Whole>
CONVLANE_INLINE Vec pool_load(const float* p, int lanes) {
  return Whole ? load(p) : load(p, lanes);
}

template <bool Whole>
CONVLANE_INLINE void pool_store(float* p, Vec a, int lanes) {
  if (Whole)
    store(p, a);
  else
    store(p, a, lanes);
}

// One window of `Vectors` vectors of channels, or of a partial one with `lanes` lanes.
template <int Vectors, bool Whole, class Fold>
CONVLANE_INLINE void pool_window(const PoolArgs& p, const float* src, float* dst, int lanes, const Fold& fold) {
  Vec total[Vectors];
  CONVLANE_UNROLL
  for (int v = 0; v < Vectors; ++v) total[v] = fold.start();
  for (int64_t first = 0; first < p.rows; first += kPoolRows) {
    const int64_t end = first + kPoolRows < p.rows ? first + kPoolRows : p.rows;
    Vec part[kPoolSums][Vectors];
    CONVLANE_UNROLL
    for (int j = 0; j < kPoolSums; ++j) {
      CONVLANE_UNROLL
      for (int v = 0; v < Vectors; ++v) part[j][v] = fold.start();
    }
    for (int64_t r = first; r < end; ++r) {
      const float* row = src + r * p.row_step;
      int64_t s = 0;
      for (; s + kPoolSums <= p.taps; s += kPoolSums) {
        CONVLANE_UNROLL
        for (int j = 0; j < kPoolSums; ++j) {
          CONVLANE_UNROLL
          for (int v = 0; v < Vectors; ++v)
            part[j][v] = fold.take(part[j][v], pool_load<Whole>(row + (s + j) * p.tap_step + v * kLanes, lanes));
        }
      }
      CONVLANE_UNROLL
      for (int j = 0; j < kPoolSums - 1; ++j) {
        if (s + j >= p.taps) break;
        CONVLANE_UNROLL
        for (int v = 0; v < Vectors; ++v)
          part[j][v] = fold.take(part[j][v], pool_load<Whole>(row + (s + j) * p.tap_step + v * kLanes, lanes));
      }
    }
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v)
      total[v] = fold.join(total[v], fold.join(fold.join(part[0][v], part[1][v]), fold.join(part[2][v], part[3][v])));
  }
  CONVLANE_UNROLL
  for (int v = 0; v < Vectors; ++v) pool_store<Whole>(dst + v * kLanes, fold.finish(total[v]), lanes);
}

template <class Fold>
void pool_any(const PoolArgs& p, const Fold& fold) {
  for (int64_t pixel = 0; pixel < p.pixels; ++pixel) {
    const float* src = p.src + pixel * p.pixel_step;
    float* dst = p.dst + pixel * p.dst_step;
    int64_t c = 0;
    for (; c + kPoolVectors * kLanes <= p.channels; c += kPoolVectors * kLanes)
      pool_window<kPoolVectors, true>(p, src + c, dst + c, kLanes, fold);
    for (; c + kLanes <= p.channels; c += kLanes) pool_window<1, true>(p, src + c, dst + c, kLanes, fold);
    if (c < p.channels) pool_window<1, false>(p, src + c, dst + c, static_cast<int>(p.channels - c), fold);
  }
}

// `Pixels` neighbouring maxima: every column of taps is folded once for all windows that contain it.
template <int Kernel, int Stride, int Pixels, bool Whole>
CONVLANE_INLINE void max_run(const PoolArgs& p, const float* src, float* dst, int lanes) {
  Vec best[Pixels];
  CONVLANE_UNROLL
  for (int column = 0; column < (Pixels - 1) * Stride + Kernel; ++column) {
    const float* tap = src + column * p.tap_step;
    Vec x = pool_load<Whole>(tap, lanes);
    CONVLANE_UNROLL
    for (int r = 1; r < Kernel; ++r) x = max_or_nan(x, pool_load<Whole>(tap + r * p.row_step, lanes));
    CONVLANE_UNROLL
    for (int i = 0; i < Pixels; ++i) {
      const int s = column - i * Stride;
      if (s == 0) best[i] = x;
      if (s > 0 && s < Kernel) best[i] = max_or_nan(best[i], x);
    }
  }
  CONVLANE_UNROLL
  for (int i = 0; i < Pixels; ++i) pool_store<Whole>(dst + i * p.dst_step, best[i], lanes);
}

template <int Kernel, int Stride, int Pixels>
CONVLANE_INLINE void max_channels(const PoolArgs& p, int64_t pixel) {
  const float* src = p.src + pixel * p.pixel_step;
  float* dst = p.dst + pixel * p.dst_step;
  int64_t c = 0;
  for (; c + kLanes <= p.channels; c += kLanes) max_run<Kernel, Stride, Pixels, true>(p, src + c, dst + c, kLanes);
  if (c < p.channels) max_run<Kernel, Stride, Pixels, false>(p, src + c, dst + c, static_cast<int>(p.channels - c));
}

template <int Kernel, int Stride>
void max_unrolled(const PoolArgs& p) {
  constexpr int kPixels = 4;
  int64_t pixel = 0;
  for (; pixel + kPixels <= p.pixels; pixel += kPixels) max_channels<Kernel, Stride, kPixels>(p, pixel);
  for (; pixel < p.pixels; ++pixel) max_channels<Kernel, Stride, 1>(p, pixel);
}

// Maxima with their indices: the first of equal values, and the last NaN, as in torch.
template <bool Whole>
CONVLANE_INLINE void argmax_window(const PoolArgs& p, int64_t pixel, int64_t c, int lanes) {
  const float* src = p.src + pixel * p.pixel_step + c;
  Vec best = broadcast(-__builtin_inff());
  const std::int64_t first = p.indices32 != nullptr ? p.index + pixel * p.index_pixel : 0;
  IntVec index = broadcast_int(static_cast<std::int32_t>(first));
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t s = 0; s < p.taps; ++s) {
      const Vec x = pool_load<Whole>(src + r * p.row_step + s * p.tap_step, lanes);
      const Mask better = either(greater(x, best), is_nan(x));
      best = select(better, x, best);
      index =
          select(better, broadcast_int(static_cast<std::int32_t>(first + r * p.index_row + s * p.index_tap)), index);
    }
  }
  pool_store<Whole>(p.dst + pixel * p.dst_step + c, best, lanes);
  if (Whole && p.indices32 != nullptr) return store(p.indices32 + pixel * p.dst_step + c, index);
  std::int32_t found[kLanes];
  store(found, index);
  for (int i = 0; i < lanes; ++i) {
    const int64_t at = pixel * p.dst_step + c + i;
    if (p.indices32 != nullptr)
      p.indices32[at] = found[i];
    else
      p.indices[at] = p.index + pixel * p.index_pixel + found[i];
  }
}

void pool_argmax(const PoolArgs& p) {
  for (int64_t pixel = 0; pixel < p.pixels; ++pixel) {
    int64_t c = 0;
    for (; c + kLanes <= p.channels; c += kLanes) argmax_window<true>(p, pixel, c, kLanes);
    if (c < p.channels) argmax_window<false>(p, pixel, c, static_cast<int>(p.channels - c));
  }
}

void pool(const PoolArgs& p) {
  const bool stride_2 = p.pixel_step == 2 * p.tap_step;
  switch (p.kind) {
    case Pooling::max:
      if (p.indices != nullptr || p.indices32 != nullptr) return pool_argmax(p);
      if (p.rows == 2 && p.taps == 2 && stride_2) return max_unrolled<2, 2>(p);
      if (p.rows == 3 && p.taps == 3 && stride_2) return max_unrolled<3, 2>(p);
      return pool_any(p, FoldMax{});
    case Pooling::average:
      return pool_any(p, FoldAverage{broadcast(p.divisor)});
    case Pooling::power:
      if (p.exponent == 2) return pool_any(p, FoldSquares{broadcast(p.scale)});
      return pool_any(p, FoldPowers{broadcast(p.scale), p.exponent});
  }
}

// A gather, not a scatter: every pixel is written once and sums its windows in order, so threads share no output.
void pool_gradient(const PoolGradientArgs& p) {
  for (int64_t pixel = 0; pixel < p.width; ++pixel) {
    const IntVec here = broadcast_int(p.first_index + static_cast<std::int32_t>(pixel));
    const int64_t x_begin = p.x_begin[pixel], x_end = p.x_end[pixel];
    float* const dst = p.dst + pixel * p.channels;
    const auto gather = [&](int64_t c, auto get, auto get_int, auto put) {
      Vec sum = zero();
      for (int64_t y = p.y_begin; y < p.y_end; ++y) {
        for (int64_t x = x_begin; x < x_end; ++x) {
          const int64_t window = y * p.out_width + x, at = window * p.channels + c;
          if (p.indices32 != nullptr)
            sum = add(sum, select(equal(get_int(p.indices32 + at), here), get(p.gradient + at), zero()));
          else
            sum = fma(get(p.gradient + at), broadcast(p.factors[window]), sum);
        }
      }
      put(dst + c, sum);
    };
    int64_t c = 0;
    for (; c + kLanes <= p.channels; c += kLanes)
      gather(
          c, [](const float* f) { return load(f); }, [](const std::int32_t* i) { return load_int(i); },
          [](float* f, Vec a) { store(f, a); });
    const int tail = static_cast<int>(p.channels - c);
    if (tail > 0)
      gather(
          c, [=](const float* f) { return load(f, tail); }, [=](const std::int32_t* i) { return load_int(i, tail); },
          [=](float* f, Vec a) { store(f, a, tail); });
  }
}

}  // namespace
}  // namespace convlane
