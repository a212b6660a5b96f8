// Normalisation: statistics of channels over rows, and local response normalisation across the channels of a pixel.
#pragma once

#include "kernels/activation.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// Mean and sum of squared deviations, per lane and relative to one of the numbers, so that a large common offset costs
// no digits. Numbers are read once: a block of `Rows` is held in registers, its own mean and deviations are taken
// there, and merged with those of the numbers seen before (Chan, Golub, LeVeque, The American Statistician 37, 1983).
// With one row it is Welford's update.
template <int Rows>
struct MomentsBlock {
  // How far a block's distance from the mean so far moves the mean, and what it adds to the squares.
  Vec seen_part, both_part;

  explicit MomentsBlock(int64_t seen) {
    const float all = static_cast<float>(seen + Rows);
    seen_part = broadcast(static_cast<float>(Rows) / all);
    both_part = broadcast(static_cast<float>(seen) * (static_cast<float>(Rows) / all));
  }

  template <class At>
  CONVLANE_INLINE void join(const At& at, Vec origin, Vec& mean, Vec& squares) const {
    Vec x[Rows];
    CONVLANE_UNROLL
    for (int r = 0; r < Rows; ++r) x[r] = sub(at(r), origin);
    Vec own = x[0], square = zero();
    CONVLANE_UNROLL
    for (int r = 1; r < Rows; ++r) own = add(own, x[r]);
    own = mul(own, broadcast(1.0f / Rows));
    CONVLANE_UNROLL
    for (int r = 0; r < Rows && Rows > 1; ++r) {
      const Vec deviation = sub(x[r], own);
      square = fma(deviation, deviation, square);
    }
    const Vec distance = sub(own, mean);
    mean = fma(distance, seen_part, mean);
    squares = fma(mul(distance, distance), both_part, add(squares, square));
  }
};

constexpr int kMomentsRows = 8;

// The number that the others are taken relative to: the median of the first, the last and one in between, so that it is
// no outlier. The one in between seldom begins a channel, as the middle of a group would.
CONVLANE_INLINE int64_t between(int64_t count) { return count * 3 / 7; }
CONVLANE_INLINE Vec median(Vec a, Vec b, Vec c) { return max(min(a, b), min(max(a, b), c)); }

void moments(const float* src, int64_t rows, int64_t channels, double* mean, double* squares) {
  constexpr int64_t kColumns = 512;  // at once, so that their state stays in the first-level cache
  float origins[kColumns], means[kColumns], sums[kColumns];
  for (int64_t c0 = 0; c0 < channels; c0 += kColumns, src += kColumns, mean += kColumns, squares += kColumns) {
    const int64_t columns = channels - c0 < kColumns ? channels - c0 : kColumns;
    const float *middle = src + between(rows) * channels, *last = src + (rows - 1) * channels;
    for_vectors(columns, [&](int64_t c, auto get, auto put) {
      put(origins + c, median(get(src + c), get(middle + c), get(last + c)));
      put(means + c, zero());
      put(sums + c, zero());
    });
    const auto join = [&](auto block, int64_t row, auto rows_of) {
      const float* from = src + row * channels;
      for_vectors(columns, [&](int64_t c, auto get, auto put) {
        Vec m = get(means + c), s = get(sums + c);
        block.join([&](int r) { return get(from + r * channels + c); }, get(origins + c), m, s);
        put(means + c, m);
        put(sums + c, s);
      });
      return row + rows_of;
    };
    int64_t row = 0;
    while (row + kMomentsRows <= rows) row = join(MomentsBlock<kMomentsRows>(row), row, kMomentsRows);
    while (row < rows) row = join(MomentsBlock<1>(row), row, 1);
    for (int64_t c = 0; c < columns; ++c) {
      mean[c] = static_cast<double>(origins[c]) + static_cast<double>(means[c]);
      squares[c] = static_cast<double>(sums[c]);
    }
  }
}

// Each lane takes the numbers of one column; at the end the columns are merged with the remainder of less than a
// vector.
void row_moments(const float* src, int64_t count, double* mean, double* squares) {
  const int64_t rows = count / kLanes;
  const Vec origins = median(broadcast(src[0]), broadcast(src[between(count)]), broadcast(src[count - 1]));
  float origin[kLanes];
  store(origin, origins);
  Vec lane_means = zero(), lane_squares = zero();
  const auto join = [&](auto block, int64_t row) {
    block.join([&](int r) { return load(src + (row + r) * kLanes); }, origins, lane_means, lane_squares);
  };
  int64_t row = 0;
  for (; row + kMomentsRows <= rows; row += kMomentsRows) join(MomentsBlock<kMomentsRows>(row), row);
  for (; row < rows; ++row) join(MomentsBlock<1>(row), row);

  float means[kLanes], sums[kLanes];
  store(means, lane_means);
  store(sums, lane_squares);
  const double of_lane = static_cast<double>(rows);
  double total = 0;
  for (int i = 0; i < kLanes; ++i) total += of_lane * static_cast<double>(means[i]);
  for (int64_t i = rows * kLanes; i < count; ++i) total += static_cast<double>(src[i] - origin[0]);
  const double center = total / static_cast<double>(count);
  double all = 0;
  for (int i = 0; i < kLanes; ++i) {
    const double distance = static_cast<double>(means[i]) - center;
    all += static_cast<double>(sums[i]) + of_lane * distance * distance;
  }
  for (int64_t i = rows * kLanes; i < count; ++i) {
    const double distance = static_cast<double>(src[i] - origin[0]) - center;
    all += distance * distance;
  }
  *mean = static_cast<double>(origin[0]) + center;
  *squares = all;
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

// 0.75 is the exponent of AlexNet and GoogLeNet; any other uses libm's powf, lane by lane.
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

// Sums over the positions from `back` before to `ahead` after each lane's own.
CONVLANE_INLINE Vec window_sum(const float* at, int64_t back, int64_t ahead) {
  Vec sum = load(at - back);
  for (int64_t t = 1 - back; t <= ahead; ++t) sum = add(sum, load(at + t));
  return sum;
}

// Every window is summed afresh: adding one square and subtracting another would carry along rounding errors and NaN.
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
// windows that contain x, which reach as far back as a window reaches ahead.
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
