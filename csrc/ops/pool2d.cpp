#include "ops/pool2d.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "ops/parallel.h"

namespace convlane {
namespace {

[[noreturn]] void refuse(const char* op, const std::string& what) {
  throw std::invalid_argument(std::string(op) + ": " + what);
}

// The windows along one axis of the image.
struct Axis {
  int64_t size, outputs, kernel, stride, dilation, before, after;
  bool adaptive;
};

Axis axis_of(const Pool2dDesc& d, int axis) {
  const Window& w = d.window;
  return {d.input[2 + axis],
          d.output[axis],
          w.kernel[axis],
          w.stride[axis],
          w.dilation[axis],
          axis == 0 ? w.top : w.left,
          axis == 0 ? w.bottom : w.right,
          d.adaptive};
}

// The maximum number of taps summed as one row; the kernel splits the sums of longer ones by rows.
constexpr int64_t kLongRow = 4096;

// One window along one axis.
struct Taps {
  int64_t first, count;  // input position of the first tap inside the image, and how many are inside
  int64_t with_padding;  // taps inside the padded image; what ceil_mode adds beyond it does not count
};

Taps taps_of(const Axis& a, int64_t output) {
  if (a.adaptive) {
    const int64_t first = output * a.size / a.outputs, end = ceil_div((output + 1) * a.size, a.outputs);
    return {first, end - first, end - first};
  }
  const int64_t start = output * a.stride - a.before;
  const Range inside = valid_outputs(start, a.dilation, a.size, a.kernel);
  return {start + inside.begin * a.dilation, inside.end - inside.begin, std::min(a.kernel, a.size + a.after - start)};
}

// Outputs whose windows have every tap inside: a run that one kernel call serves.
Range whole_windows(const Axis& a) {
  if (a.adaptive) return {0, 0};
  const int64_t begin = valid_outputs(-a.before, a.stride, a.size, a.outputs).begin;
  const int64_t end = valid_outputs((a.kernel - 1) * a.dilation - a.before, a.stride, a.size, a.outputs).end;
  return {begin, std::max(begin, end)};
}

void set_divisors(const Pool2dDesc& d, const Taps& vertical, const Taps& horizontal, PoolArgs& k) {
  const int64_t inside = vertical.count * horizontal.count;
  const int64_t counted = d.count_padding ? vertical.with_padding * horizontal.with_padding : inside;
  k.divisor = static_cast<float>(d.divisor.value_or(counted));
  // As torch, averages first and then multiplies by the kernel's size, so windows cut by ceil_mode are scaled up.
  if (d.kind == Pooling::power)
    k.scale = static_cast<float>(static_cast<double>(d.window.kernel[0] * d.window.kernel[1]) / inside);
}

void check_indices32(const Pool2dDesc& d) {
  if (checked_mul(d.input[2], d.input[3]) > std::numeric_limits<std::int32_t>::max())
    throw std::invalid_argument("max pooling: planes of more than 2^31 pixels have no gradient");
}

// For every input position along an axis, the first output whose window reaches it, and the one after the last.
struct Reached {
  std::vector<int64_t> begin, end;
};

Reached reached_by(const Axis& a) {
  Reached reached{std::vector<int64_t>(a.size, 0), std::vector<int64_t>(a.size, 0)};
  for (int64_t output = 0; output < a.outputs; ++output) {
    const Taps taps = taps_of(a, output);
    for (int64_t tap = 0; tap < taps.count; ++tap) {
      const int64_t at = taps.first + tap * (a.adaptive ? 1 : a.dilation);
      if (reached.end[at] == 0) reached.begin[at] = output;
      reached.end[at] = output + 1;
    }
  }
  return reached;
}

}  // namespace

Pool2dDesc describe_pool2d(const char* op, Pooling kind, const Shape4& input, const Window& w, bool ceil_mode) {
  const Pair output = window_output(op, w, input[2], input[3], ceil_mode);
  checked_mul(w.kernel[0], w.kernel[1]);
  const auto check_padding = [&](int64_t padding, int axis) {
    const int64_t reach = (w.kernel[axis] - 1) * w.dilation[axis] + 1;
    if (padding > reach / 2)
      refuse(op, "padding must be at most half of the kernel's reach, got padding " + std::to_string(padding) +
                     " for kernel size " + std::to_string(w.kernel[axis]) + " and dilation " +
                     std::to_string(w.dilation[axis]));
  };
  check_padding(std::max(w.top, w.bottom), 0);
  check_padding(std::max(w.left, w.right), 1);
  return {kind, input, output, false, w};
}

Pool2dDesc describe_adaptive_pool2d(const char* op, Pooling kind, const Shape4& input, const Pair& output) {
  if (output[0] < 0 || output[1] < 0) refuse(op, "output size must not be negative, got " + to_string(output));
  if (input[2] < 1 || input[3] < 1) refuse(op, "input " + to_string(input) + " has no pixels");
  for (int axis = 0; axis < 2; ++axis) checked_mul(checked_add(output[axis], 1), input[2 + axis]);
  return {kind, input, output, true, Window{}};
}

Range pool2d_inputs(const Pool2dDesc& d, int64_t y) {
  const Axis axis = axis_of(d, 0);
  const Taps taps = taps_of(axis, y);
  if (taps.count == 0) return {0, 0};
  return {taps.first, taps.first + (taps.count - 1) * (d.adaptive ? 1 : axis.dilation) + 1};
}

void run_pool2d_row(const Pool2dDesc& d, const KernelTable& kernels, const Pool2dRow& row) {
  const int64_t c = d.input[1], h = d.input[2], w = d.input[3];
  const Window& window = d.window;
  const Axis horizontal = axis_of(d, 1);
  const Taps rows = taps_of(axis_of(d, 0), row.y);
  const bool located = row.indices != nullptr || row.indices32 != nullptr;
  PoolArgs k{};
  k.kind = d.kind;
  k.exponent = d.exponent;
  k.rows = rows.count;
  // Steps that leave the image are never used; the minima keep their products within 64 bits.
  k.index_row = std::min(window.dilation[0], h) * w;
  k.index_tap = std::min(window.dilation[1], w);
  k.index_pixel = std::min(window.stride[1], w);
  k.row_step = k.index_row * row.src_stride;
  k.tap_step = k.index_tap * row.src_stride;
  k.pixel_step = k.index_pixel * row.src_stride;
  k.dst_step = row.dst_stride;
  const auto run = [&](int64_t x, int64_t pixels) {
    const Taps columns = taps_of(horizontal, x);
    PoolArgs part = k;
    part.taps = columns.count;
    part.pixels = pixels;
    part.channels = row.channels;
    set_divisors(d, rows, columns, part);
    const bool empty = rows.count == 0 || columns.count == 0;  // every tap of a dilated window in the padding
    part.src = row.src + (empty ? 0 : (rows.first - row.first_row) * w + columns.first) * row.src_stride + row.channel;
    part.index = !empty ? rows.first * w + columns.first : row.indices32 != nullptr ? -1 : 0;
    if (empty) part.index_pixel = 0;
    part.dst = row.dst + x * row.dst_stride + row.channel;
    part.indices = row.indices == nullptr ? nullptr : row.indices + x * row.dst_stride + row.channel;
    part.indices32 = row.indices32 == nullptr ? nullptr : row.indices32 + x * row.dst_stride + row.channel;
    if (part.row_step == part.taps * part.tap_step && part.rows * part.taps <= kLongRow && !located) {
      part.taps *= part.rows;  // a window as wide as the image is one long row
      part.rows = 1;
    }
    if (part.pixel_step == c && part.dst_step == c && part.channels == c && !located) {
      part.channels *= pixels;  // at stride 1 neighbouring windows are neighbouring channels
      part.pixels = 1;
    }
    kernels.pool(part);
  };
  const Range whole = whole_windows(horizontal);
  for (int64_t x = 0; x < whole.begin; ++x) run(x, 1);
  if (whole.end > whole.begin) run(whole.begin, whole.end - whole.begin);
  for (int64_t x = whole.end; x < d.output[1]; ++x) run(x, 1);
}

void run_pool2d(const Pool2dDesc& d, const ImageView& image, float* dst, int64_t dst_stride, int64_t* indices,
                std::int32_t* indices32) {
  const ChannelsLast converted(image);
  run_pool2d(d, converted.view().data, d.input[1], dst, dst_stride, indices, indices32);
}

void run_pool2d(const Pool2dDesc& d, const float* src, int64_t src_stride, float* dst, int64_t dst_stride,
                int64_t* indices, std::int32_t* indices32) {
  const auto [n, c, h, w] = d.input;
  const auto [oh, ow] = d.output;
  if (indices32 != nullptr) check_indices32(d);
  if (n * c * oh * ow == 0) return;
  if (indices != nullptr) {
    // The kernel counts within a window in 32 bits.
    const int64_t reach = (d.window.kernel[0] - 1) * d.window.dilation[0] + 1;
    if (checked_mul(d.adaptive ? h : std::min(h, reach), w) > std::numeric_limits<std::int32_t>::max())
      throw std::invalid_argument("max pooling: windows of more than 2^31 pixels have no indices");
  }
  const KernelTable& kernels = active_table();

  const int threads = threads_for(std::max(n * c * h * w, n * c * oh * ow));
  // Few rows (global pooling has one per image) are split by channels, which are independent of each other.
  constexpr int64_t kLine = 16;  // floats of a cache line, which two threads do not share
  const int64_t block = n * oh >= threads ? c : round_up(ceil_div(c, threads), kLine), blocks = ceil_div(c, block);
  parallel_for(n * oh * blocks, threads,
               [&, c = c, h = h, w = w, oh = oh, ow = ow](int64_t begin, int64_t end, int) noexcept {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t row = task / blocks, channel = task % blocks * block, to = row * ow * dst_stride;
                   Pool2dRow part{};
                   part.y = row % oh;
                   part.src = src + row / oh * h * w * src_stride;
                   part.src_stride = src_stride;
                   part.channel = channel;
                   part.channels = std::min(block, c - channel);
                   part.dst = dst + to;
                   part.dst_stride = dst_stride;
                   part.indices = indices == nullptr ? nullptr : indices + to;
                   part.indices32 = indices32 == nullptr ? nullptr : indices32 + to;
                   run_pool2d_row(d, kernels, part);
                 }
               });
}

void run_indices_in_volumes(const int64_t* within, int64_t depth, int64_t plane, const int64_t* rows,
                            const Shape4& shape, int64_t* dst) {
  const auto [n, c, outputs, columns] = shape;
  const int64_t row = columns * c;
  parallel_for(n * outputs, threads_for(n * outputs * row),
               [&, c = c, outputs = outputs, columns = columns](int64_t begin, int64_t end, int) noexcept {
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t* volume = within + i / outputs * depth * row;
                   for (int64_t x = 0; x < columns; ++x)
                     for (int64_t channel = 0; channel < c; ++channel) {
                       const int64_t at = i * row + x * c + channel, index = rows[at];
                       dst[at] = index / columns * plane + volume[index * c + channel];
                     }
                 }
               });
}

void run_pool2d_gradient(const Pool2dDesc& d, const ImageView& image, const std::int32_t* indices32, float* dst) {
  const auto [n, c, h, w] = d.input;
  const auto [oh, ow] = d.output;
  if (indices32 != nullptr) check_indices32(d);
  if (n * c * h * w == 0) return;
  const ChannelsLast converted(image);
  const float* gradient = converted.view().data;
  const Axis vertical = axis_of(d, 0), horizontal = axis_of(d, 1);
  const Reached rows = reached_by(vertical), columns = reached_by(horizontal);
  std::vector<float> factors(indices32 == nullptr ? checked_mul(oh, ow) : 0);
  for (int64_t window = 0; window < static_cast<int64_t>(factors.size()); ++window) {
    PoolArgs divided{};
    set_divisors(d, taps_of(vertical, window / ow), taps_of(horizontal, window % ow), divided);
    factors[window] = 1 / divided.divisor;
  }
  const auto run = active_table().pool_gradient;
  parallel_for(n * h, threads_for(n * c * h * w),
               [&, c = c, h = h, w = w, oh = oh, ow = ow](int64_t begin, int64_t end, int) noexcept {
                 for (int64_t row = begin; row < end; ++row) {
                   const int64_t y = row % h, from = row / h * oh * ow * c;
                   PoolGradientArgs args{};
                   args.gradient = gradient + from;
                   args.indices32 = indices32 == nullptr ? nullptr : indices32 + from;
                   args.factors = factors.data();
                   args.y_begin = rows.begin[y];
                   args.y_end = rows.end[y];
                   args.x_begin = columns.begin.data();
                   args.x_end = columns.end.data();
                   args.width = w;
                   args.out_width = ow;
                   args.channels = c;
                   args.first_index = static_cast<std::int32_t>(indices32 == nullptr ? 0 : y * w);
                   args.dst = dst + row * w * c;
                   run(args);
                 }
               });
}

}  // namespace convlane
