// Reductions: along rows that are dense in memory, and down columns side by side.
//
// The order of a sum is the same either way. Its numbers are dealt to kLanes lanes in turn; every 8 of a lane are added
// as a tree in float, and the trees' sums in double. So, whatever its length, it is as exact as a sum in double except
// for the rounding within trees. Extremes are exact in any order.
#pragma once

#include <type_traits>

#include "kernels/pointwise.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

constexpr int kTree = 8;

struct SumOf {
  static CONVLANE_INLINE Vec neutral() { return zero(); }
  static CONVLANE_INLINE Vec join(Vec a, Vec b) { return add(a, b); }
  static CONVLANE_INLINE double join(double a, double b) { return a + b; }
  CONVLANE_INLINE Vec lift(Vec x) const { return x; }
};

// Squares of deviations from a given number.
struct SquaresOf : SumOf {
  Vec shift;
  CONVLANE_INLINE Vec lift(Vec x) const {
    const Vec d = sub(x, shift);
    return in_register(mul(d, d));  // or some squares would be fused with the sums, and others not
  }
};

// Its trees are in double: 8 of the largest floats overflow a float, not a double.
struct ProductOf {
  static CONVLANE_INLINE Vec neutral() { return broadcast(1.0f); }
  static CONVLANE_INLINE double join(double a, double b) { return a * b; }
  CONVLANE_INLINE Vec lift(Vec x) const { return x; }
};

struct MaximumOf {
  static CONVLANE_INLINE Vec neutral() { return broadcast(-__builtin_inff()); }
  static CONVLANE_INLINE Vec better(Vec a, Vec b) { return max_or_nan(a, b); }
  static CONVLANE_INLINE double join(double a, double b) { return b > a || b != b ? b : a; }
};

struct MinimumOf {
  static CONVLANE_INLINE Vec neutral() { return broadcast(__builtin_inff()); }
  static CONVLANE_INLINE Vec better(Vec a, Vec b) { return min_or_nan(a, b); }
  static CONVLANE_INLINE double join(double a, double b) { return b < a || b != b ? b : a; }
};

template <class F>
constexpr bool kIsExtreme = std::is_same_v<F, MaximumOf> || std::is_same_v<F, MinimumOf>;

template <class T, class Join>
CONVLANE_INLINE T join_tree(const T (&v)[kTree], Join join) {
  return join(join(join(v[0], v[1]), join(v[2], v[3])), join(join(v[4], v[5]), join(v[6], v[7])));
}

// Combines 8 vectors, some of which may be neutral, into the lanes' numbers.
template <class F>
CONVLANE_INLINE void fold_tree(const Vec (&v)[kTree], double* lanes) {
  if constexpr (std::is_same_v<F, ProductOf>) {
    float numbers[kTree][kLanes];
    for (int k = 0; k < kTree; ++k) store(numbers[k], v[k]);
    for (int lane = 0; lane < kLanes; ++lane) {
      double factors[kTree];
      for (int k = 0; k < kTree; ++k) factors[k] = static_cast<double>(numbers[k][lane]);
      lanes[lane] *= join_tree(factors, [](double a, double b) { return a * b; });
    }
  } else {
    float joined[kLanes];
    store(joined, join_tree(v, [](Vec a, Vec b) { return F::join(a, b); }));
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = F::join(lanes[lane], static_cast<double>(joined[lane]));
  }
}

template <class F>
CONVLANE_INLINE void reduce_row_by(F f, const float* src, int64_t count, double* lanes) {
  Vec v[kTree];
  int64_t i = 0;
  for (; i + kTree * kLanes <= count; i += kTree * kLanes) {
    CONVLANE_UNROLL
    for (int k = 0; k < kTree; ++k) v[k] = f.lift(load(src + i + k * kLanes));
    fold_tree<F>(v, lanes);
  }
  if (i == count) return;
  for (int k = 0; k < kTree; ++k) {
    const int64_t left = count - i - k * kLanes;
    const int n = static_cast<int>(left < kLanes ? left : kLanes);
    v[k] = F::neutral();
    if (n == kLanes) v[k] = f.lift(load(src + i + k * kLanes));
    if (n > 0 && n < kLanes) v[k] = select(lanes_before(n), f.lift(load(src + i + k * kLanes, n)), F::neutral());
  }
  fold_tree<F>(v, lanes);
}

template <class F>
CONVLANE_INLINE void best_of_row(const float* src, int64_t count, double* lanes) {
  Vec best[kTree];
  for (Vec& vector : best) vector = F::neutral();
  int64_t i = 0;
  for (; i + kTree * kLanes <= count; i += kTree * kLanes) {
    CONVLANE_UNROLL
    for (int k = 0; k < kTree; ++k) best[k] = F::better(best[k], load(src + i + k * kLanes));
  }
  for (; i < count; i += kLanes) {
    const int n = static_cast<int>(count - i < kLanes ? count - i : kLanes);
    const Vec x = n == kLanes ? load(src + i) : select(lanes_before(n), load(src + i, n), F::neutral());
    best[0] = F::better(best[0], x);
  }
  for (int k = 1; k < kTree; ++k) best[0] = F::better(best[0], best[k]);
  float found[kLanes];
  store(found, fold_lanes(best[0], [](Vec a, Vec b) { return F::better(a, b); }));
  lanes[0] = F::join(lanes[0], static_cast<double>(found[0]));
}

// The best of each column, at its first lane.
template <class F>
CONVLANE_INLINE void best_of_columns(const float* const* rows, int64_t count, int64_t columns, double* sums) {
  constexpr int64_t kStrip = 512;
  constexpr int kRows = 4;
  float best[kStrip];
  for (int64_t first = 0; first < columns; first += kStrip) {
    const int64_t width = columns - first < kStrip ? columns - first : kStrip;
    for_vectors(width, [&](int64_t c, auto, auto put) { put(best + c, F::neutral()); });
    for (int64_t row = 0; row < count; row += kRows) {
      const float* r[kRows];  // the last one repeated where there are no more
      for (int k = 0; k < kRows; ++k) r[k] = rows[row + k < count ? row + k : count - 1] + first;
      for_vectors(width, [&](int64_t c, auto get, auto put) {
        const Vec four = F::better(F::better(get(r[0] + c), get(r[1] + c)), F::better(get(r[2] + c), get(r[3] + c)));
        put(best + c, F::better(get(best + c), four));
      });
    }
    for (int64_t c = 0; c < width; ++c) sums[first + c] = F::join(sums[first + c], static_cast<double>(best[c]));
  }
}

// Calls use(f) with the reduction; deviations are from `shift`.
template <class Use>
CONVLANE_INLINE void with_reduction(Reduction op, Vec shift, const Use& use) {
  switch (op) {
    case Reduction::sum:
      return use(SumOf{});
    case Reduction::squares: {
      SquaresOf squares;
      squares.shift = shift;
      return use(squares);
    }
    case Reduction::product:
      return use(ProductOf{});
    case Reduction::maximum:
      return use(MaximumOf{});
    case Reduction::minimum:
      return use(MinimumOf{});
  }
}

void reduce_row(Reduction op, const float* src, int64_t count, float shift, double* lanes) {
  with_reduction(op, broadcast(shift), [=](auto f) {
    if constexpr (kIsExtreme<decltype(f)>)
      best_of_row<decltype(f)>(src, count, lanes);
    else
      reduce_row_by(f, src, count, lanes);
  });
}

// Joins the first `used` of the lanes' numbers by halves.
template <class F>
CONVLANE_INLINE double join_lanes(double (&lanes)[kLanes], int64_t used) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane)
      if (lane + half < used) lanes[lane] = F::join(lanes[lane], lanes[lane + half]);
  return lanes[0];
}

void reduce_rows(Reduction op, const float* src, int64_t stride, int64_t rows, int64_t count, const float* shift,
                 double* results) {
  with_reduction(op, zero(), [=](auto f) {
    using F = decltype(f);
    float neutral[kLanes];
    store(neutral, F::neutral());
    for (int64_t row = 0; row < rows; ++row) {
      double lanes[kLanes];
      for (double& lane : lanes) lane = static_cast<double>(neutral[0]);
      if constexpr (std::is_same_v<F, SquaresOf>) f.shift = broadcast(shift == nullptr ? 0 : shift[row]);
      if constexpr (kIsExtreme<F>) {
        best_of_row<F>(src + row * stride, count, lanes);
        results[row] = lanes[0];
      } else {
        reduce_row_by(f, src + row * stride, count, lanes);
        results[row] = count < kLanes ? join_lanes<F>(lanes, count) : join_lanes<F>(lanes, kLanes);
      }
    }
  });
}

// Lane by lane, so that the rows of a tree are read along their columns.
template <class F>
CONVLANE_INLINE void reduce_columns_by(F f, const float* const* rows, int64_t count, int64_t columns,
                                       const float* shift, double* sums) {
  for (int lane = 0; lane < kLanes && lane < count; ++lane) {
    const int used = static_cast<int>((count - lane + kLanes - 1) / kLanes);
    for_vectors(columns, [&](int64_t c, auto get, auto) {
      if constexpr (std::is_same_v<F, SquaresOf>) f.shift = get(shift + c);
      Vec v[kTree];
      for (int k = 0; k < kTree; ++k) v[k] = k < used ? f.lift(get(rows[k * kLanes + lane] + c)) : F::neutral();
      double* to = sums + lane * columns + c;
      const int64_t left = columns - c;
      if (left >= kLanes) return fold_tree<F>(v, to);
      double lanes[kLanes] = {};
      for (int64_t i = 0; i < left; ++i) lanes[i] = to[i];
      fold_tree<F>(v, lanes);
      for (int64_t i = 0; i < left; ++i) to[i] = lanes[i];
    });
  }
}

void reduce_columns(Reduction op, const float* const* rows, int64_t count, int64_t columns, const float* shift,
                    double* sums) {
  with_reduction(op, zero(), [=](auto f) {
    if constexpr (kIsExtreme<decltype(f)>)
      best_of_columns<decltype(f)>(rows, count, columns, sums);
    else
      reduce_columns_by(f, rows, count, columns, shift, sums);
  });
}

// The index of the first NaN, else of the first of the largest (smallest) numbers, down columns side by side.
void arg_columns(bool largest, const float* src, int64_t stride, int64_t count, int64_t columns, int64_t* dst) {
  const Vec sign = broadcast(largest ? 1.0f : -1.0f);
  for (int64_t c = 0; c < columns; c += kLanes) {
    const int n = static_cast<int>(columns - c < kLanes ? columns - c : kLanes);
    const auto row = [=](int64_t r) {
      return mul(sign, n == kLanes ? load(src + r * stride + c) : load(src + r * stride + c, n));
    };
    Vec best = row(0);
    IntVec index = broadcast_int(0);
    for (int64_t r = 1; r < count; ++r) {
      const Vec x = row(r);
      const Mask first_nan = both(is_nan(x), inverse(is_nan(best)));
      const Mask more = either(greater(x, best), first_nan);  // nothing is greater than a NaN
      best = select(more, x, best);
      index = select(more, broadcast_int(static_cast<std::int32_t>(r)), index);
    }
    std::int32_t indices[kLanes];
    store(indices, index);
    for (int i = 0; i < n; ++i) dst[c + i] = indices[i];
  }
}

// The same for a dense row.
int64_t arg_row(bool largest, const float* src, int64_t count) {
  constexpr int64_t kBlock = 4096;
  const Reduction op = largest ? Reduction::maximum : Reduction::minimum;
  float best = 0;
  int64_t index = -1;
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t n = count - first < kBlock ? count - first : kBlock;
    double lanes[kLanes];
    for (double& lane : lanes) lane = largest ? -__builtin_inf() : __builtin_inf();
    reduce_row(op, src + first, n, 0, lanes);
    for (int i = 1; i < kLanes; ++i)
      lanes[0] = largest ? MaximumOf::join(lanes[0], lanes[i]) : MinimumOf::join(lanes[0], lanes[i]);
    const float found = static_cast<float>(lanes[0]);
    if (index >= 0 && !(largest ? found > best : found < best) && found == found) continue;
    best = found;
    const Vec wanted = broadcast(best);
    const auto hits = [=](Vec x) { return either(equal(x, wanted), is_nan(x)); };
    index = first;
    while (index + kLanes <= first + n && !any(hits(load(src + index)))) index += kLanes;
    while (src[index] != best && src[index] == src[index]) ++index;
    if (best != best) break;
  }
  return index;
}

// The sum over [0, count) of term(i), in blocks, so that long sums stay exact.
template <class Term>
CONVLANE_INLINE Vec sum_in_blocks(int64_t count, const Term& term) {
  constexpr int64_t kBlock = 128;
  Vec total = zero();
  for (int64_t first = 0; first < count; first += kBlock) {
    Vec sum = zero();
    for (int64_t i = first; i < count && i < first + kBlock; ++i) sum = add(sum, term(i));
    total = add(total, sum);
  }
  return total;
}

// Softmax, or its logarithm, down columns side by side; otherwise as for rows.
void softmax_columns(const float* src, float* dst, int64_t count, int64_t stride, int64_t columns, bool log) {
  for_vectors(columns, [=](int64_t c, auto get, auto put) {
    Vec top = get(src + c);
    for (int64_t r = 1; r < count; ++r) top = max(top, get(src + r * stride + c));
    const Vec sum = sum_in_blocks(count, [&](int64_t r) {
      const Vec power = exp(sub(get(src + r * stride + c), top));
      if (!log) put(dst + r * stride + c, power);
      return power;
    });
    if (log) {
      const Vec log_sum = convlane::log(sum);
      for (int64_t r = 0; r < count; ++r) put(dst + r * stride + c, sub(sub(get(src + r * stride + c), top), log_sum));
    } else {
      const Vec factor = div(broadcast(1.0f), sum);
      for (int64_t r = 0; r < count; ++r) put(dst + r * stride + c, mul(get(dst + r * stride + c), factor));
    }
  });
}

// Their gradients, from the output y and its gradient; dst may be the latter.
void softmax_columns_gradient(const float* y, const float* gradient, float* dst, int64_t count, int64_t stride,
                              int64_t columns, bool log) {
  for_vectors(columns, [=](int64_t c, auto get, auto put) {
    const Vec sum = sum_in_blocks(count, [&](int64_t r) {
      const Vec g = get(gradient + r * stride + c);
      return log ? g : mul(g, get(y + r * stride + c));
    });
    for (int64_t at = c; at < c + count * stride; at += stride)
      put(dst + at,
          log ? fnma(exp(get(y + at)), sum, get(gradient + at)) : mul(get(y + at), sub(get(gradient + at), sum)));
  });
}

}  // namespace
}  // namespace convlane
