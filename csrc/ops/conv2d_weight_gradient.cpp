// Gradient of convolution's weight: for every tap, the sum over pixels of the outer products of the output's gradient
// and the input pixel at that tap. Neither is copied; taps in the padding are skipped.
//
// Pixels are processed in chunks, whose sums are added up in order at the end. The number of chunks follows from the
// shape alone, so the result does not depend on the threads, which share chunks and, within a chunk, parts of the sums.
#include <cstring>

#include "ops/conv2d_backward.h"
#include "ops/parallel.h"
#include "runtime/machine.h"

namespace convlane {
namespace {

// The memory layout of a chunk's sums: [group][tap][row][column], where rows are the channels that are broadcast.
struct Sums {
  int64_t groups, taps, rows, columns;
  bool inputs_are_rows;  // else the output's channels are
  int64_t size() const { return groups * taps * rows * columns; }
};

Sums sums_of(const Conv2dDesc& d, int64_t taps, int64_t inputs, int lanes) {
  const int64_t outputs = d.o_per_group();
  const bool inputs_are_rows = inputs * round_up(outputs, lanes) < outputs * round_up(inputs, lanes);
  return {d.groups, taps, inputs_are_rows ? inputs : outputs, inputs_are_rows ? outputs : inputs, inputs_are_rows};
}

// A chunk must have enough pixels to pay for the addition of its sums; the sums of all chunks should stay small.
int64_t chunks_of(const Conv2dDesc& d, const Sums& s) {
  constexpr int64_t kPixels = 1024, kFloats = int64_t{2} << 20, kMost = 16;
  return std::clamp<int64_t>(std::min(d.pixels() / kPixels, kFloats / s.size()), 1, kMost);
}

// Pixels of a block, and columns of a part: their floats stay in the second-level cache while all rows pass over them.
int64_t cached_floats() { return second_level_floats(2); }

int64_t pixels_per_block(const Conv2dDesc& d, const Sums& s) {
  constexpr int64_t kFewest = 256, kMost = 1024;
  return std::min(std::clamp<int64_t>(cached_floats() / s.columns, kFewest, kMost), d.pixels());
}

// Lists the pixels of the output and of the input that one tap pairs; returns how many.
int64_t meet(const Conv2dDesc& d, const float* gradient, const float* input, int64_t tap, int64_t first, int64_t count,
             const float** outputs, const float** inputs) {
  const Window& w = d.window;
  const int64_t r = tap / d.kw() * w.dilation[0] - w.top, s = tap % d.kw() * w.dilation[1] - w.left;
  const Range valid = valid_outputs(s, w.stride[1], d.w, d.ow);
  int64_t found = 0;
  for (int64_t done = 0; done < count;) {
    const int64_t pixel = first + done, ow = pixel % d.ow, oh = pixel / d.ow % d.oh, image = pixel / (d.ow * d.oh);
    const int64_t run = std::min(count - done, d.ow - ow), ih = oh * w.stride[0] + r;
    done += run;
    if (ih < 0 || ih >= d.h) continue;
    const float* to = gradient + (pixel - ow) * d.o;
    const float* from = input + ((image * d.h + ih) * d.w + s) * d.c;
    for (int64_t x = std::max(ow, valid.begin); x < std::min(ow + run, valid.end); ++x, ++found) {
      outputs[found] = to + x * d.o;
      inputs[found] = from + x * w.stride[1] * d.c;
    }
  }
  return found;
}

// Lists pixels of the output, and writes the windows that they read to `windows`; returns how many.
int64_t unroll(const Conv2dDesc& d, const KernelTable& kernels, const float* gradient, const float* input,
               int64_t first, int64_t count, float* windows, const float** outputs, const float** inputs) {
  const Window& w = d.window;
  const int64_t size = d.taps() * d.c;
  for (int64_t i = 0; i < count; ++i) {
    outputs[i] = gradient + (first + i) * d.o;
    inputs[i] = windows + i * size;
  }
  for (int64_t i = 0; i < count;) {
    const int64_t pixel = first + i, ow = pixel % d.ow, oh = pixel / d.ow % d.oh, image = pixel / (d.ow * d.oh);
    const int64_t y = oh * w.stride[0] - w.top, x = ow * w.stride[1] - w.left;
    // Windows of this row that lie inside the image.
    const int64_t last = std::min((d.w - d.kw() - x) / w.stride[1] + 1, d.ow - ow);
    const bool inside = w.dilation == Pair{1, 1} && y >= 0 && y + d.kh() <= d.h && x >= 0 && x + d.kw() <= d.w;
    const int64_t run = inside ? std::min(last, count - i) : 1;
    if (inside)
      kernels.copy_windows(input + ((image * d.h + y) * d.w + x) * d.c, d.w * d.c, w.stride[1] * d.c, run, d.kh(),
                           d.kw() * d.c, windows + i * size);
    else
      unroll_window(d, input, pixel, windows + i * size);
    i += run;
  }
  return count;
}

// The sums of chunks, added up, in the weight's order: dst[o][c][tap].
void add_up(const Conv2dDesc& d, const Sums& s, const float* sums, int64_t chunks, const KernelTable& kernels,
            float* dst) {
  constexpr int64_t kFilters = 16;
  const int64_t outputs = d.o_per_group(), inputs = s.inputs_are_rows ? s.rows : s.columns, length = s.taps * inputs;
  const int64_t blocks = ceil_div(outputs, kFilters);
  const int threads = threads_for(chunks * s.size());
  const auto scratch = allocate_aligned<float>(checked_mul(2 * threads * kFilters, length));
  parallel_for(d.groups * blocks, threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    float *summed = scratch.get() + 2 * thread * kFilters * length, *filters = summed + kFilters * length;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / blocks, first = task % blocks * kFilters,
                    count = std::min(kFilters, outputs - first);
      const float* from = sums + group * s.taps * s.rows * s.columns;
      // Runs of contiguous floats: for every tap the block's filters, or for every element of a filter the block.
      const int64_t runs = s.inputs_are_rows ? length : s.taps, run = s.inputs_are_rows ? count : count * inputs;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        for (int64_t i = 0; i < runs; ++i) {
          const float* src = s.inputs_are_rows ? from + i * s.columns + first : from + (i * s.rows + first) * s.columns;
          src += chunk * s.size();
          float* to = summed + i * run;
          if (chunk == 0)
            std::copy_n(src, run, to);
          else
            for (int64_t j = 0; j < run; ++j) to[j] += src[j];
        }
      }
      // [tap][input][filter] or [tap][filter][input] to [filter][tap][input]
      if (s.inputs_are_rows) {
        kernels.transpose(summed, count, filters, length, length, count);
      } else {
        for (int64_t o = 0; o < count; ++o)
          for (int64_t tap = 0; tap < s.taps; ++tap)
            std::copy_n(summed + (tap * count + o) * inputs, inputs, filters + o * length + tap * inputs);
      }
      float* to = dst + (group * outputs + first) * length;
      const int64_t channels = d.c_per_group();
      for (int64_t o = 0; o < count; ++o, to += length)
        kernels.transpose(filters + o * length, channels, to, d.taps(), d.taps(), channels);
    }
  });
}

// The sums divided into units, each with some rows and columns of one tap of one group.
class Units {
 public:
  Units(const Sums& s, const KernelTable& kernels, int64_t block_pixels)
      : s_(s), kernels_(kernels), row_parts_(ceil_div(s.rows, 4 * kernels.gemm.mr)) {
    const int64_t width = round_up(cached_floats() / block_pixels, kernels.gemm.nr);
    column_parts_ = ceil_div(s.columns, width);
  }
  int64_t count() const { return s_.groups * s_.taps * column_parts_ * row_parts_; }

  // Adds the sums over one block of pixels to units [begin, end) or, with `first`, starts them. list(tap, args) sets
  // count, a and b: the pixels that meet at the tap.
  template <class List>
  void run(int64_t begin, int64_t end, bool first, float* sums, const List& list) const {
    OuterArgs g{};
    int64_t listed = -1;
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t row_part = unit % row_parts_, column_part = unit / row_parts_ % column_parts_;
      const int64_t tap = unit / (row_parts_ * column_parts_) % s_.taps;
      const int64_t group = unit / (row_parts_ * column_parts_) / s_.taps;
      const int64_t row = s_.rows * row_part / row_parts_, nr = kernels_.gemm.nr, panels = ceil_div(s_.columns, nr);
      const int64_t column = panels * column_part / column_parts_ * nr;
      if (listed != tap) list(tap, g);
      listed = tap;
      g.rows = s_.rows * (row_part + 1) / row_parts_ - row;
      g.columns = std::min(panels * (column_part + 1) / column_parts_ * nr, s_.columns) - column;
      g.a_offset = group * s_.rows + row;
      g.b_offset = group * s_.columns + column;
      g.dst = sums + ((group * s_.taps + tap) * s_.rows + row) * s_.columns + column;
      g.dst_stride = s_.columns;
      g.accumulate = !first;
      kernels_.outer(g);
    }
  }

 private:
  const Sums& s_;
  const KernelTable& kernels_;
  int64_t row_parts_, column_parts_;
};

}  // namespace

void run_conv2d_weight_gradient(const Conv2dDesc& d, const ImageView& gradient, const ImageView& input, float* dst) {
  if (d.pixels() == 0) {
    std::memset(dst, 0, sizeof(float) * d.o * d.c_per_group() * d.taps());
    return;
  }
  const ChannelsLast outputs(gradient), inputs(input);
  const float *dy = outputs.view().data, *x = inputs.view().data;
  if (d.groups > 1 && d.c_per_group() == 1) return run_depthwise_weight_gradient(d, dy, x, dst);
  if (winograd_gradient_pays(d)) return run_winograd_weight_gradient(d, dy, x, dst);

  const KernelTable& kernels = active_table();
  const bool unrolled = d.groups == 1 && d.taps() > 1 && d.c < kernels.lanes;
  const int64_t window = d.taps() * d.c;
  const Sums s = unrolled ? sums_of(d, 1, window, kernels.lanes) : sums_of(d, d.taps(), d.c_per_group(), kernels.lanes);
  const int64_t chunks = chunks_of(d, s), block = pixels_per_block(d, s);
  const int threads = threads_for(d.multiply_adds());
  const Units units(s, kernels, block);
  const int64_t parts = std::min(ceil_div(4 * threads, chunks), units.count());
  const bool in_order = chunks == 1 && d.taps() == 1 && !s.inputs_are_rows;  // the sums are in the weight's order
  const auto buffer = allocate_aligned<float>(in_order ? 0 : checked_mul(chunks, s.size()));
  float* sums = in_order ? dst : buffer.get();
  const auto pointers = allocate_aligned<const float*>(checked_mul(threads, 2 * block));
  const auto windows = allocate_aligned<float>(unrolled ? checked_mul(threads * block, window) : 0);
  parallel_for(chunks * parts, threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    const float **dy_pixels = pointers.get() + thread * 2 * block, **x_pixels = dy_pixels + block;
    float* own = windows.get() + (unrolled ? thread * block * window : 0);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task / parts, part = task % parts;
      const int64_t first = d.pixels() * chunk / chunks, last = d.pixels() * (chunk + 1) / chunks;
      for (int64_t pixel = first; pixel < last; pixel += block) {
        units.run(units.count() * part / parts, units.count() * (part + 1) / parts, pixel == first,
                  sums + chunk * s.size(), [&](int64_t tap, OuterArgs& g) {
                    const int64_t count = std::min(block, last - pixel);
                    g.count = unrolled ? unroll(d, kernels, dy, x, pixel, count, own, dy_pixels, x_pixels)
                                       : meet(d, dy, x, tap, pixel, count, dy_pixels, x_pixels);
                    g.a = s.inputs_are_rows ? x_pixels : dy_pixels;
                    g.b = s.inputs_are_rows ? dy_pixels : x_pixels;
                  });
      }
    }
  });
  if (!in_order) add_up(d, s, sums, chunks, kernels, dst);
}

void run_depthwise_weight_gradient(const Conv2dDesc& d, const float* gradient, const float* input, float* dst) {
  // Bands of rows of one image, each with sums of its own.
  constexpr int64_t kBandPixels = 1024, kMostBands = 256;
  const Window& w = d.window;
  const int64_t rows = d.n * d.oh, taps = d.taps(), size = taps * d.o, width = d.w * d.o;
  const int64_t band = std::max(ceil_div(kBandPixels, d.ow), ceil_div(rows, kMostBands));
  const int64_t bands_per_image = ceil_div(d.oh, band), bands = d.n * bands_per_image;
  const int64_t band_inputs = (std::min(band, d.oh) - 1) * w.stride[0] + (d.kh() - 1) * w.dilation[0] + 1;
  const int threads = threads_for(d.multiply_adds());
  const KernelTable& kernels = active_table();
  const auto zeros = allocate_aligned<float>(width);
  std::memset(zeros.get(), 0, sizeof(float) * width);
  const auto pointers = allocate_aligned<const float*>(checked_mul(threads, band_inputs));
  const int64_t multiplier = d.o_per_group(), own_repeated = multiplier == 1 ? 0 : checked_mul(band_inputs, width);
  const auto repeated = allocate_aligned<float>(checked_mul(threads, own_repeated));
  const auto sums = allocate_aligned<float>(checked_mul(bands + 1, size));
  parallel_for(bands, threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    const float** at = pointers.get() + thread * band_inputs;
    float* own = repeated.get() + thread * own_repeated;
    for (int64_t index = begin; index < end; ++index) {
      const int64_t image = index / bands_per_image, first = index % bands_per_image * band;
      DepthwiseGradientArgs k{};
      k.out_rows = std::min(band, d.oh - first);
      const int64_t inputs = (k.out_rows - 1) * w.stride[0] + (d.kh() - 1) * w.dilation[0] + 1;
      for (int64_t y = 0; y < inputs; ++y) {
        const int64_t ih = first * w.stride[0] - w.top + y;
        at[y] = ih < 0 || ih >= d.h ? zeros.get() : input + (image * d.h + ih) * d.w * d.c;
        if (multiplier == 1 || at[y] == zeros.get()) continue;
        kernels.repeat_channels(at[y], d.w * d.c, multiplier, own + y * width);
        at[y] = own + y * width;
      }
      k.rows = at;
      k.zeros = zeros.get();
      k.width = d.w;
      k.left = w.left;
      k.out_width = d.ow;
      k.channels = d.o;
      k.kernel_h = d.kh();
      k.kernel_w = d.kw();
      k.stride_h = w.stride[0];
      k.stride_w = w.stride[1];
      k.dilation_h = w.dilation[0];
      k.dilation_w = w.dilation[1];
      k.gradient = gradient + (image * d.oh + first) * d.ow * d.o;
      k.dst = sums.get() + index * size;
      kernels.depthwise_gradient(k);
    }
  });
  float* total = sums.get() + bands * size;
  kernels.sum_columns(sums.get(), size, bands, size, total);
  kernels.transpose(total, d.o, dst, taps, taps, d.o);
}

void run_conv2d_bias_gradient(const ImageView& gradient, float* dst) {
  constexpr int64_t kRows = 512, kMostChunks = 256;
  const int64_t channels = gradient.shape[1], rows = gradient.pixels();
  const int64_t chunks = std::clamp<int64_t>(rows / kRows, 1, kMostChunks);
  const ChannelsLast source(gradient);
  const KernelTable& kernels = active_table();
  const auto sums = allocate_aligned<float>(checked_mul(chunks, channels));
  parallel_for(chunks, threads_for(rows * channels), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = rows * chunk / chunks;
      kernels.sum_columns(source.view().data + first * channels, channels, rows * (chunk + 1) / chunks - first,
                          channels, sums.get() + chunk * channels);
    }
  });
  kernels.sum_columns(sums.get(), channels, chunks, channels, dst);
}

}  // namespace convlane
