// Depthwise convolution of a band of rows, channels last: lanes are channels, so every tap is one load and one
// multiply-add. A register tile is a few pixels of one vector of channels, whose taps share loads; a tile goes through
// all channels before the next one starts, so that reads are contiguous.
#pragma once

#include "kernels/activation.inl"
#include "kernels/columns.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

CONVLANE_INLINE Vec depthwise_bias(const DepthwiseArgs& d, int64_t c, int lanes) {
  return d.epilogue.bias == nullptr ? zero() : load(d.epilogue.bias + c, lanes);
}

alignas(64) constexpr float kZeros[kLanes] = {};

// Two runs of pixels, wherever they are, are computed at once: they share the weights and give enough independent sums
// to cover the multiply-add's latency.
//
// Bound. Within a row of taps a run of P pixels and T taps with stride s loads T weights and (P - 1) s + T columns,
// each once, for T P multiply-adds. With 7 x 2 pixels (32 registers) a row of 7 taps takes 33 loads for 98
// multiply-adds, one of 3 takes 21 for 42; with 4 x 2 pixels (16 registers) 4 taps take 18 loads for 32, 3 taps 15
// for 24. Rows of more taps than registers hold are cut into parts of equal length: 31 taps are 7 + 6 + 6 + 6 + 6, 158
// loads for 434. So a CPU that loads as often as it multiplies and adds is bound by the latter, as long as the
// first-level cache answers.
constexpr int kRuns = 2;
constexpr int kRunPixels = kRegisters == 32 ? 7 : 4;
constexpr int kRowTaps = 7;  // with the sums and one column they fit into the registers

// Where a run's outputs and inputs are.
struct DepthwiseRun {
  const float* const* rows;
  int64_t first;       // column of the first pixel's first tap
  int64_t begin, end;  // the taps' columns, counted from the first pixel's first tap, that lie inside the row
  float* dst;
  const float* residual;  // or null
};

struct DepthwiseTile {
  DepthwiseRun run[kRuns];
  int64_t first_row, end_row;       // of the taps; those before and after meet only padding
  bool inside;                      // no tap of either run meets padding
  int64_t dst_step, residual_step;  // between pixels of a run
  int64_t pixel_columns;            // columns between two pixels
  int64_t parts, longer;            // of a row of taps, and how many of them have one tap more than the rest
};

template <int Pixels>
CONVLANE_INLINE void set_runs(Vec (&sum)[kRuns][Pixels], Vec value) {
  CONVLANE_UNROLL
  for (int q = 0; q < kRuns; ++q) {
    CONVLANE_UNROLL
    for (int p = 0; p < Pixels; ++p) sum[q][p] = value;
  }
}

template <bool Full, int Pixels>
CONVLANE_INLINE void store_runs(const DepthwiseTile& t, int64_t c, int lanes, Clamp clamp, Vec (&sum)[kRuns][Pixels]) {
  if (t.run[0].residual != nullptr) {
    CONVLANE_UNROLL
    for (int q = 0; q < kRuns; ++q) {
      const float* residual = t.run[q].residual + c;
      CONVLANE_UNROLL
      for (int p = 0; p < Pixels; ++p, residual += t.residual_step)
        sum[q][p] = add(sum[q][p], Full ? load(residual) : load(residual, lanes));
    }
  }
  CONVLANE_UNROLL
  for (int q = 0; q < kRuns; ++q) {
    float* to = t.run[q].dst + c;
    CONVLANE_UNROLL
    for (int p = 0; p < Pixels; ++p, to += t.dst_step)
      Full ? store(to, clamp(sum[q][p])) : store(to, clamp(sum[q][p]), lanes);
  }
}

// Calls body(c) for vectors of channels. The last one may overlap the one before, whose shared channels are then
// computed twice, with the same results.
template <class Body>
CONVLANE_INLINE void for_whole_vectors(int64_t channels, const Body& body) {
  for (int64_t c = 0; c < channels; c += kLanes) body(c + kLanes <= channels ? c : channels - kLanes);
}

// How columns outside the row are handled: there are none; zeros are read instead, which is cheap for few taps; or a
// branch, which lets a part of many taps skip its work.
enum class Outside { none, zeros, skipped };

// Some taps of a row.
template <int Taps, int Stride, Outside Beyond, int Pixels>
CONVLANE_INLINE void add_taps(const float* const (&src)[kRuns], const int64_t (&begin)[kRuns],
                              const int64_t (&end)[kRuns], int64_t column, const float* weights, int64_t weight_stride,
                              Vec (&sum)[kRuns][Pixels]) {
  Vec weight[Taps];
  CONVLANE_UNROLL
  for (int s = 0; s < Taps; ++s, weights += weight_stride) weight[s] = in_register(load(weights));
  CONVLANE_UNROLL
  for (int q = 0; q < kRuns; ++q) {
    if (Beyond != Outside::none && end[q] <= 0) continue;
    const float* from = src[q];
    const auto inside = static_cast<std::uint64_t>(end[q] - begin[q]);
    CONVLANE_UNROLL
    for (int i = 0; i < (Pixels - 1) * Stride + Taps; ++i, from += column) {
      const bool is_inside = Beyond == Outside::none || static_cast<std::uint64_t>(i - begin[q]) < inside;
      if (Beyond == Outside::skipped && !is_inside) continue;
      const Vec value = in_register(load(is_inside ? from : kZeros));
      CONVLANE_UNROLL
      for (int p = 0; p < Pixels; ++p) {
        const int s = i - p * Stride;
        if (s >= 0 && s < Taps) sum[q][p] = fma(value, weight[s], sum[q][p]);
      }
    }
  }
}

// Whole vectors of channels; the pixels are `Stride` columns of taps apart and share columns. The taps of a row form
// one part or, with `Parts`, several.
template <int Pixels, int Stride, int Taps, bool Parts, bool Inside>
CONVLANE_INLINE void depthwise_shared_of(const DepthwiseArgs& d, const DepthwiseTile& t) {
  constexpr Outside kBeyond = Inside ? Outside::none : Parts ? Outside::skipped : Outside::zeros;
  const Clamp clamp(d.epilogue.activation);
  const int64_t column = d.dilation_w * d.src_stride;
  const float* const* const rows[kRuns] = {t.run[0].rows, t.run[1].rows};
  const int64_t first[kRuns] = {t.run[0].first * d.src_stride, t.run[1].first * d.src_stride};
  const float* weights = d.weight + t.first_row * d.kernel_w * d.weight_stride;
  const int64_t row_of_weights = d.kernel_w * d.weight_stride;
  for_whole_vectors(d.channels, [&](int64_t c) {
    Vec sum[kRuns][Pixels];
    set_runs<Pixels>(sum, depthwise_bias(d, c, kLanes));
    const float* weight = weights + c;
    for (int64_t r = t.first_row; r < t.end_row; ++r, weight += row_of_weights) {
      const float* src[kRuns];
      int64_t begin[kRuns] = {}, end[kRuns] = {};
      CONVLANE_UNROLL
      for (int q = 0; q < kRuns; ++q) {
        const float* row = rows[q][r * d.dilation_h];
        src[q] = row + first[q] + c;
        if (Inside) continue;
        begin[q] = t.run[q].begin;
        end[q] = row == d.zeros ? 0 : t.run[q].end;
      }
      if constexpr (!Parts) {
        add_taps<Taps, Stride, kBeyond, Pixels>(src, begin, end, column, weight, d.weight_stride, sum);
      } else {
        const float* taps = weight;
        const auto advance = [&](int count) {
          taps += count * d.weight_stride;
          CONVLANE_UNROLL
          for (int q = 0; q < kRuns; ++q) {
            src[q] += count * column;
            begin[q] -= count;
            end[q] -= count;
          }
        };
        int64_t part = 0;
        for (; part < t.longer; ++part, advance(Taps))
          add_taps<Taps, Stride, kBeyond, Pixels>(src, begin, end, column, taps, d.weight_stride, sum);
        for (; part < t.parts; ++part, advance(Taps - 1))
          add_taps<Taps - 1, Stride, kBeyond, Pixels>(src, begin, end, column, taps, d.weight_stride, sum);
      }
    }
    store_runs<true, Pixels>(t, c, kLanes, clamp, sum);
  });
}

template <int Pixels, int Stride, int Taps, bool Parts>
void depthwise_shared(const DepthwiseArgs& d, const DepthwiseTile& t) {
  if constexpr (Pixels > 2)
    if (t.inside) return depthwise_shared_of<Pixels, Stride, Taps, Parts, true>(d, t);
  depthwise_shared_of<Pixels, Stride, Taps, Parts, false>(d, t);
}

// One vector of channels at any distance between pixels: a load for each multiply-add.
template <int Pixels, bool Full, bool Inside>
CONVLANE_INLINE void depthwise_apart_of(const DepthwiseArgs& d, const DepthwiseTile& t, int64_t c, int lanes,
                                        Clamp clamp) {
  Vec sum[kRuns][Pixels];
  set_runs<Pixels>(sum, depthwise_bias(d, c, lanes));
  const int64_t column = d.dilation_w * d.src_stride, pixel = t.pixel_columns * d.src_stride;
  for (int64_t r = t.first_row; r < t.end_row; ++r) {
    const float* weight = d.weight + c + r * d.kernel_w * d.weight_stride;
    const float* src[kRuns];
    bool blank[kRuns];
    CONVLANE_UNROLL
    for (int q = 0; q < kRuns; ++q) {
      const float* row = t.run[q].rows[r * d.dilation_h];
      blank[q] = row == d.zeros;
      src[q] = row + t.run[q].first * d.src_stride + c;
    }
    for (int64_t s = 0; s < d.kernel_w; ++s, weight += d.weight_stride) {
      const Vec w = Full ? load(weight) : load(weight, lanes);
      CONVLANE_UNROLL
      for (int q = 0; q < kRuns; ++q) {
        if (!Inside && blank[q]) continue;
        const float* from = src[q] + s * column;
        CONVLANE_UNROLL
        for (int p = 0; p < Pixels; ++p) {
          const int64_t at = t.run[q].first + s * d.dilation_w + p * t.pixel_columns;
          if (!Inside && (at < 0 || at >= d.width)) continue;
          const float* value = from + p * pixel;
          sum[q][p] = fma(Full ? load(value) : load(value, lanes), w, sum[q][p]);
        }
      }
    }
  }
  store_runs<Full, Pixels>(t, c, lanes, clamp, sum);
}

template <int Pixels>
void depthwise_apart(const DepthwiseArgs& d, const DepthwiseTile& t) {
  const Clamp clamp(d.epilogue.activation);
  const int lanes = static_cast<int>(d.channels);
  if (d.channels < kLanes && t.inside)
    depthwise_apart_of<Pixels, false, true>(d, t, 0, lanes, clamp);
  else if (d.channels < kLanes)
    depthwise_apart_of<Pixels, false, false>(d, t, 0, lanes, clamp);
  else if (t.inside)
    for_whole_vectors(d.channels, [&](int64_t c) { depthwise_apart_of<Pixels, true, true>(d, t, c, kLanes, clamp); });
  else
    for_whole_vectors(d.channels, [&](int64_t c) { depthwise_apart_of<Pixels, true, false>(d, t, c, kLanes, clamp); });
}

using DepthwiseKernel = void (*)(const DepthwiseArgs&, const DepthwiseTile&);

template <int Pixels, int Stride, bool Parts, int Taps = kRowTaps>
DepthwiseKernel depthwise_shared_by(int64_t taps) {
  constexpr int kFewest = Parts ? (kRowTaps + 2) / 2 : 2;  // a row with one tap more than fits at once is halved
  if constexpr (Taps > kFewest)
    if (taps < Taps) return depthwise_shared_by<Pixels, Stride, Parts, Taps - 1>(taps);
  return depthwise_shared<Pixels, Stride, Taps, Parts>;
}

// How the pixels of a row are split into runs, and what computes them. With dilation d and stride s, pixels that share
// columns with the taps are d / gcd(d, s) apart, with a distance of s / gcd(d, s) taps: so a row is that many phases,
// each without dilation.
class DepthwiseRows {
 public:
  explicit DepthwiseRows(const DepthwiseArgs& d) : d_(d) {
    int64_t divisor = d.stride_w, rest = d.dilation_w % d.stride_w;
    while (rest != 0) {
      const int64_t next = divisor % rest;
      divisor = rest;
      rest = next;
    }
    stride_ = d.stride_w / divisor;
    phases_ = d.dilation_w / divisor;
    // Short phases would leave runs of only a few pixels.
    shares_ =
        d.channels >= kLanes && d.kernel_w > 1 && stride_ <= 2 && (phases_ == 1 || d.out_width / phases_ >= kRunPixels);
    if (!shares_) phases_ = 1;
    tile_.parts = (d.kernel_w + kRowTaps - 1) / kRowTaps;
    tile_.longer = d.kernel_w - tile_.parts * ((d.kernel_w - 1) / tile_.parts);
    tile_.dst_step = phases_ * d.dst_stride;
    tile_.residual_step = phases_ * d.epilogue.residual_stride;
    tile_.pixel_columns = phases_ * d.stride_w;
  }

  void run(int64_t y, int64_t rows) {
    for (int64_t phase = 0; phase < phases_; ++phase) {
      const int64_t pixels = (d_.out_width - phase + phases_ - 1) / phases_;
      int64_t x = runs<kRunPixels>(y, rows, phase, pixels, 0);
      if constexpr (kRunPixels > 4) x = runs<4>(y, rows, phase, pixels, x);
      x = runs<2>(y, rows, phase, pixels, x);
      runs<1>(y, rows, phase, pixels, x);
    }
    // The longer activations are applied to whole rows afterwards, because runs may overlap.
    if (is_clamp(d_.epilogue.activation)) return;
    for (int64_t row = y; row < y + rows; ++row)
      activate_rows(d_.dst + row * d_.out_width * d_.dst_stride, d_.out_width, d_.dst_stride, d_.channels, d_.epilogue);
  }

 private:
  // Computes runs of `Pixels` pixels from x on and returns the column from which shorter runs take over. A last run may
  // overlap the one before, which costs less than several short ones.
  template <int Pixels>
  int64_t runs(int64_t y, int64_t rows, int64_t phase, int64_t pixels, int64_t x) {
    constexpr int kNext = Pixels > 4 ? 4 : Pixels / 2;
    const int64_t left = pixels - x;
    if (left <= 0 || pixels < Pixels) return x;
    const bool overlaps = left % Pixels > kNext;
    const int64_t count = left / Pixels + (overlaps ? 1 : 0), total = rows * count;
    if (count == 0) return x;
    const DepthwiseKernel kernel = kernel_for<Pixels>();
    // Runs below each other share input rows, so they are computed together.
    for (int64_t k = 0; k < total; k += kRuns) {
      tile_.inside = true;
      tile_.first_row = d_.kernel_h;
      tile_.end_row = 0;
      for (int q = 0; q < kRuns; ++q) {
        const int64_t at = k + q < total ? k + q : k, column = x + at / rows * Pixels;
        DepthwiseRun& run = tile_.run[q] =
            run_at(y + at % rows, phase, column + Pixels > pixels ? pixels - Pixels : column);
        const int64_t last = run.first + (Pixels - 1) * tile_.pixel_columns + (d_.kernel_w - 1) * d_.dilation_w;
        tile_.inside = tile_.inside && run.first >= 0 && last < d_.width;
        find_rows(run);
      }
      kernel(d_, tile_);
    }
    return overlaps ? pixels : x + count * Pixels;
  }

  void find_rows(const DepthwiseRun& run) {
    const auto blank = [&](int64_t r) { return run.rows[r * d_.dilation_h] == d_.zeros; };
    for (int64_t r = 0; r < d_.kernel_h; ++r) {
      if (blank(r)) {
        tile_.inside = false;
        continue;
      }
      if (r < tile_.first_row) tile_.first_row = r;
      if (r >= tile_.end_row) tile_.end_row = r + 1;
    }
  }

  template <int Pixels>
  DepthwiseKernel kernel_for() const {
    if (!shares_) return depthwise_apart<Pixels>;
    const int64_t taps = (d_.kernel_w - 1) / tile_.parts + 1;
    if (tile_.parts == 1)
      return stride_ == 1 ? depthwise_shared_by<Pixels, 1, false>(taps) : depthwise_shared_by<Pixels, 2, false>(taps);
    return stride_ == 1 ? depthwise_shared_by<Pixels, 1, true>(taps) : depthwise_shared_by<Pixels, 2, true>(taps);
  }

  DepthwiseRun run_at(int64_t y, int64_t phase, int64_t index) const {
    const int64_t x = phase + index * phases_, step = d_.dilation_w, pixel = y * d_.out_width + x;
    DepthwiseRun run;
    run.rows = d_.rows + y * d_.stride_h;
    run.first = x * d_.stride_w - d_.left;
    const int64_t before = run.first < 0 ? -run.first : 0, after = d_.width - run.first;
    run.begin = step == 1 ? before : (before + step - 1) / step;
    run.end = after <= 0 ? 0 : step == 1 ? after : (after + step - 1) / step;
    run.dst = d_.dst + pixel * d_.dst_stride;
    const Epilogue& e = d_.epilogue;
    run.residual = e.residual == nullptr ? nullptr : e.residual + pixel * e.residual_stride;
    return run;
  }

  const DepthwiseArgs& d_;
  int64_t phases_, stride_;
  bool shares_;
  DepthwiseTile tile_{};
};

void depthwise_rows(const DepthwiseArgs& d) {
  DepthwiseRows all(d);
  for (int64_t y = 0; y < d.out_rows; y += kRuns) all.run(y, d.out_rows - y < kRuns ? d.out_rows - y : kRuns);
}

// Few channels: those of several pixels fill a vector, and the taps are few enough to be repeated for each pixel.
constexpr int64_t kRepeatedTaps = 256;
CONVLANE_INLINE bool has_few_channels(const DepthwiseArgs& d) {
  const Epilogue& e = d.epilogue;
  return 2 * d.channels <= kLanes && d.stride_w == 1 && d.dilation_w == 1 && d.src_stride == d.channels &&
         d.dst_stride == d.channels && (e.residual == nullptr || e.residual_stride == d.channels) &&
         d.kernel_h * d.kernel_w <= kRepeatedTaps;
}

// Treats neighbouring pixels as one pixel with that many times the channels, where all of their taps stay inside the
// row: row by row, because a row need not divide evenly. The rest at the sides is computed pixel by pixel.
void depthwise_few_channels(const DepthwiseArgs& d) {
  const int64_t together = kLanes / d.channels, taps = d.kernel_h * d.kernel_w;
  const auto within = [&d](int64_t x) { return x < 0 ? 0 : x < d.out_width ? x : d.out_width; };
  const int64_t begin = within(d.left), last = within(d.width + d.left - d.kernel_w + 1);
  const int64_t groups = last > begin ? (last - begin) / together : 0, end = groups > 0 ? last : begin;

  alignas(64) float weights[kRepeatedTaps * kLanes], bias[kLanes];
  const auto repeat = [&](const float* src, float* dst) {
    for (int64_t i = 0; i < together * d.channels; ++i) dst[i] = src[i % d.channels];
  };
  DepthwiseArgs whole = d;
  whole.channels = whole.dst_stride = whole.epilogue.residual_stride = together * d.channels;
  whole.weight = weights;
  whole.weight_stride = kLanes;
  whole.stride_w = together;
  if (d.epilogue.bias != nullptr) {
    repeat(d.epilogue.bias, bias);
    whole.epilogue.bias = bias;
  }
  for (int64_t tap = 0; tap < taps; ++tap) repeat(d.weight + tap * d.weight_stride, weights + tap * kLanes);

  // `count` outputs of row y from column x on.
  const auto run = [&](DepthwiseArgs part, int64_t y, int64_t x, int64_t count) {
    if (count <= 0) return;
    const int64_t at = (y * d.out_width + x) * d.channels;
    part.rows = d.rows + y * d.stride_h;
    part.out_rows = 1;
    part.out_width = count;
    part.left = d.left - x;
    part.dst = d.dst + at;
    if (part.epilogue.residual != nullptr) part.epilogue.residual += at;
    depthwise_rows(part);
  };
  for (int64_t y = 0; y < d.out_rows; ++y) {
    run(d, y, 0, begin);
    run(whole, y, begin, groups);
    if (groups * together < end - begin) run(whole, y, end - together, 1);
    run(d, y, end, d.out_width - end);
  }
}

void depthwise(const DepthwiseArgs& d) {
  has_few_channels(d) ? depthwise_few_channels(d) : depthwise_rows(d);
  for (int64_t y = 0; d.sums != nullptr && y < d.out_rows; ++y)
    sum_columns(d.dst + y * d.out_width * d.dst_stride, d.dst_stride, d.out_width, d.channels,
                d.sums + y * d.sums_stride);
}

// Two neighbouring inputs contribute to the same outputs, one through the even taps, the other through the odd ones.
template <int Kernel, int Rows>
CONVLANE_INLINE void depthwise_input_gradient_of(const DepthwiseInputGradientArgs& d, int64_t c, int lanes) {
  constexpr int kBefore = (Kernel - 1) / 2;  // outputs before the first that an input contributes to
  Vec weight[Rows][Kernel], window[Rows][kBefore + 1];
  const auto output = [&](int row, int64_t j) {
    return load(j >= 0 && j < d.row_width ? d.rows[row] + j * d.channels + c : kZeros, lanes);
  };
  const int64_t begin = d.left / 2, end = (d.left + d.width + 1) / 2;
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) {
    CONVLANE_UNROLL
    for (int s = 0; s < Kernel; ++s) weight[i][s] = load(d.weights[i] + s * d.channels + c, lanes);
    CONVLANE_UNROLL
    for (int k = 1; k <= kBefore; ++k) window[i][k] = output(i, begin - k);
  }
  for (int64_t j = begin; j < end; ++j) {
    Vec even = zero(), odd = zero();
    CONVLANE_UNROLL
    for (int i = 0; i < Rows; ++i) {
      window[i][0] = output(i, j);
      CONVLANE_UNROLL
      for (int k = 0; k <= kBefore; ++k) even = fma(window[i][k], weight[i][2 * k], even);
      CONVLANE_UNROLL
      for (int k = 0; k < kBefore; ++k) odd = fma(window[i][k], weight[i][2 * k + 1], odd);
      CONVLANE_UNROLL
      for (int k = kBefore; k > 0; --k) window[i][k] = window[i][k - 1];
    }
    const int64_t x = 2 * j - d.left;
    if (x >= 0) store(d.dst + x * d.channels + c, even, lanes);
    if (x + 1 < d.width) store(d.dst + (x + 1) * d.channels + c, odd, lanes);
  }
}

template <int Kernel>
CONVLANE_INLINE void depthwise_input_gradient_row(const DepthwiseInputGradientArgs& d) {
  for (int64_t c = 0; c < d.channels; c += kLanes) {
    const int lanes = static_cast<int>(d.channels - c < kLanes ? d.channels - c : kLanes);
    if (d.count == 1) depthwise_input_gradient_of<Kernel, 1>(d, c, lanes);
    if (d.count == 2) depthwise_input_gradient_of<Kernel, 2>(d, c, lanes);
    if (d.count == 3) depthwise_input_gradient_of<Kernel, 3>(d, c, lanes);
  }
}

void depthwise_input_gradient(const DepthwiseInputGradientArgs& d) {
  d.kernel == 3 ? depthwise_input_gradient_row<3>(d) : depthwise_input_gradient_row<5>(d);
}

}  // namespace
}  // namespace convlane
