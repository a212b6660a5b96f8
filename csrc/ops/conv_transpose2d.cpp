// Checks, packed weights and the choice of algorithm for transposed convolution.
#include "ops/conv_transpose2d.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace convlane {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("conv_transpose2d: " + what); }

// The output size along one dimension.
int64_t transposed_size(int64_t size, int64_t kernel, int64_t stride, int64_t dilation, int64_t padding,
                        int64_t output_padding) {
  const int64_t reach = checked_add(checked_mul(size - 1, stride), checked_mul(kernel - 1, dilation));
  return checked_add(reach, output_padding + 1) - padding;
}

// Whether there are so few channels that a convolution would leave most lanes of a vector empty.
bool has_few_channels(int64_t channels, int64_t taps, int64_t groups, const KernelTable& kernels) {
  return groups == 1 && taps > 1 && 2 * channels <= kernels.lanes;
}

// The distance between taps that contribute to outputs of the same residue.
int64_t tap_step(int64_t stride, int64_t dilation) { return stride / std::gcd(stride, dilation); }

bool is_cropped(const Window& w) { return std::min({w.top, w.bottom, w.left, w.right}) < 0; }

// The weight of the convolution from input to output: (C, O / groups, KH, KW).
class Swapped {
 public:
  Swapped(const ImageView& weight, int64_t groups) : view_(weight) {
    const auto [outputs, c, kh, kw] = weight.shape;
    const int64_t o = outputs / groups, taps = kh * kw;
    view_.shape = {c * groups, o, kh, kw};
    std::swap(view_.strides[0], view_.strides[1]);
    if (groups == 1) return;
    if (c == 1) {
      view_.strides[0] = o * weight.strides[0];
      return;
    }
    copy_ = allocate_aligned<float>(weight.count());
    const Shape4 to{o * taps, taps, kw, 1};
    for (int64_t g = 0; g < groups; ++g) {
      const ImageView group{weight.data + g * o * weight.strides[0],
                            {c, o, kh, kw},
                            {weight.strides[1], weight.strides[0], weight.strides[2], weight.strides[3]}};
      copy_image(group, copy_.get() + g * c * o * taps, to);
    }
    view_ = {copy_.get(), view_.shape, to};
  }

  // Every `step`-th tap from `first` on, in reverse order.
  ImageView part(const Pair& first, const Pair& step) const {
    const int64_t rows = (view_.shape[2] - 1 - first[0]) / step[0], columns = (view_.shape[3] - 1 - first[1]) / step[1];
    const int64_t down = view_.strides[2], across = view_.strides[3];
    return {view_.data + (first[0] + rows * step[0]) * down + (first[1] + columns * step[1]) * across,
            {view_.shape[0], view_.shape[1], rows + 1, columns + 1},
            {view_.strides[0], view_.strides[1], -step[0] * down, -step[1] * across}};
  }

 private:
  AlignedArray<float> copy_;
  ImageView view_;
};

TransposedWay way_of(const std::string& algorithm, bool few_channels, const Pair& stride, int64_t groups) {
  const bool convolution = stride == Pair{1, 1};
  if (algorithm == "auto")
    return few_channels ? TransposedWay::windows : convolution ? TransposedWay::convolution : TransposedWay::phases;
  if (algorithm == "phases") return TransposedWay::phases;
  if (algorithm == "windows") {
    if (groups != 1) refuse("algorithm 'windows' cannot do this: there is more than one group");
    return TransposedWay::windows;
  }
  for (const Conv2dAlgorithm& each : conv2d_algorithms()) {
    if (algorithm != each.name) continue;
    if (!convolution) refuse("algorithm '" + algorithm + "' cannot do this: the stride is " + to_string(stride));
    return TransposedWay::convolution;
  }
  std::string known;
  for (const Conv2dAlgorithm& each : conv2d_algorithms()) known += ", " + std::string(each.name);
  refuse("unknown algorithm '" + algorithm + "'; there are auto, windows, phases" + known);
}

// The stem's algorithm copies images with their padding and cannot crop them.
const Conv2dAlgorithm& convolution_of(const Conv2dDesc& p, const TransposedWeight& weight) {
  const Conv2dAlgorithm& chosen = choose_conv2d(p, weight.algorithm(), weight.part().layout());
  return is_cropped(p.window) && chosen.name == std::string("stem") ? find_conv2d_algorithm("direct") : chosen;
}

Conv2dDesc only_phase(const Conv2dDesc& d) { return phase_conv2d(d, phase_of(d, 0, 0), phase_of(d, 1, 0)); }

Conv2dArgs convolution_args(const ConvTranspose2dArgs& args) {
  Conv2dArgs convolution{};
  convolution.src = args.src;
  convolution.weight = &args.weight->part();
  convolution.epilogue = args.epilogue;
  convolution.dst = args.dst;
  convolution.dst_stride = args.dst_stride;
  convolution.threads = args.threads;
  return convolution;
}

}  // namespace

Conv2dDesc describe_conv_transpose2d(const Shape4& input, const Shape4& weight, Window window,
                                     const Pair& output_padding, int64_t groups) {
  const auto [n, o, oh, ow] = input;
  const auto [rows, c, kh, kw] = weight;
  if (groups < 1) refuse("groups must be at least 1, got " + std::to_string(groups));
  if (rows < 1 || c < 1) refuse("weight " + to_string(weight) + " has no channels");
  if (o != rows)
    refuse("weight of shape " + to_string(weight) + " expects input " + to_string(input) + " to have " +
           std::to_string(rows) + " channels, but got " + std::to_string(o));
  if (o % groups != 0)
    refuse("the " + std::to_string(o) + " input channels of weight " + to_string(weight) +
           " cannot be divided into groups=" + std::to_string(groups));
  window.kernel = {kh, kw};
  check_window("conv_transpose2d", window);
  if (oh < 1 || ow < 1) refuse("input " + to_string(input) + " is empty");
  for (int i = 0; i < 2; ++i)
    if (output_padding[i] < 0 || output_padding[i] >= std::max(window.stride[i], window.dilation[i]))
      refuse("output_padding must be at least 0 and smaller than stride or dilation, got " + to_string(output_padding) +
             " with stride " + to_string(window.stride) + " and dilation " + to_string(window.dilation));
  const Pair size{transposed_size(oh, kh, window.stride[0], window.dilation[0], checked_add(window.top, window.bottom),
                                  output_padding[0]),
                  transposed_size(ow, kw, window.stride[1], window.dilation[1], checked_add(window.left, window.right),
                                  output_padding[1])};
  if (size[0] < 1 || size[1] < 1)
    refuse("input " + to_string(input) + " and padding " + to_string(sides_of(window)) +
           " would give an output of size " + to_string(size));
  const int64_t channels = checked_mul(c, groups);
  checked_mul(checked_mul(checked_mul(n > 0 ? n : 1, channels), checked_mul(size[0], size[1])), sizeof(float));
  return {n, channels, size[0], size[1], o, oh, ow, groups, window};
}

TransposedWeight::TransposedWeight(const ImageView& weight, const Pair& stride, const Pair& dilation, int64_t groups,
                                   const std::string& algorithm)
    : kernels_(&active_table()), shape_(weight.shape), stride_(stride), dilation_(dilation), groups_(groups) {
  const auto [o, c, kh, kw] = weight.shape;
  Window window;
  window.kernel = {kh, kw};
  window.stride = stride;
  window.dilation = dilation;
  check_window("conv_transpose2d", window);
  if (o < 1 || c < 1 || groups < 1 || o % groups != 0)
    refuse("the " + std::to_string(o) + " input channels of weight " + to_string(weight.shape) +
           " cannot be divided into groups=" + std::to_string(groups));
  way_ = way_of(algorithm, has_few_channels(c, kh * kw, groups, *kernels_), stride, groups);
  if (way_ == TransposedWay::windows)
    pack_windows(weight);
  else
    pack_phases(weight, algorithm);
}

void TransposedWeight::pack_phases(const ImageView& weight, const std::string& algorithm) {
  const Swapped swapped(weight, groups_);
  const bool depthwise = groups_ > 1 && shape_[1] == 1 && shape_[0] == groups_;
  const WeightLayout usual = depthwise ? WeightLayout::depthwise : WeightLayout::panels;
  const Pair step{tap_step(stride_[0], dilation_[0]), tap_step(stride_[1], dilation_[1])};
  const int64_t down = std::min(step[0], shape_[2]);
  across_ = std::min(step[1], shape_[3]);
  for (int64_t y = 0; y < down; ++y) {
    for (int64_t x = 0; x < across_; ++x) {
      const ImageView part = swapped.part({y, x}, step);
      const bool convolution = way_ == TransposedWay::convolution;
      parts_.emplace_back(part, groups_, convolution ? conv2d_weight_layout(part.shape, groups_, algorithm) : usual);
    }
  }
  algorithm_ = algorithm;
}

// Packs the weight as the matrix that maps an input pixel to its window: (KH * KW * C, O).
void TransposedWeight::pack_windows(const ImageView& weight) {
  const auto [o, c, kh, kw] = weight.shape;
  const auto [so, sc, sh, sw] = weight.strides;
  const auto rows = allocate_aligned<float>(weight.count());
  float* to = rows.get();
  for (int64_t r = 0; r < kh; ++r)
    for (int64_t s = 0; s < kw; ++s)
      for (int64_t j = 0; j < c; ++j)
        for (int64_t i = 0; i < o; ++i) *to++ = weight.data[i * so + j * sc + r * sh + s * sw];
  const ImageView matrix{rows.get(), {kh * kw * c, o, 1, 1}, {o, 1, 1, 1}};
  parts_.emplace_back(matrix, 1, WeightLayout::panels);
}

int64_t TransposedWeight::bytes() const {
  int64_t sum = 0;
  for (const PackedWeight& part : parts_) sum += part.bytes();
  return sum;
}

bool TransposedWeight::reversible() const {
  return std::all_of(parts_.begin(), parts_.end(), [](const PackedWeight& part) { return part.reversible(); });
}

void TransposedWeight::unpack(float* dst) const {
  const auto [o, c, kh, kw] = shape_;
  const auto buffer = allocate_aligned<float>(o * c * kh * kw);
  const float* from = buffer.get();
  if (way_ == TransposedWay::windows) {
    part().unpack(buffer.get());
    for (int64_t tap = 0; tap < kh * kw; ++tap)
      for (int64_t j = 0; j < c; ++j)
        for (int64_t i = 0; i < o; ++i) dst[(i * c + j) * kh * kw + tap] = *from++;
    return;
  }
  const Pair step{tap_step(stride_[0], dilation_[0]), tap_step(stride_[1], dilation_[1])};
  const int64_t inputs = o / groups_;
  for (int64_t y = 0; y < std::min(step[0], kh); ++y)
    for (int64_t x = 0; x < across_; ++x, from = buffer.get()) {
      part(y, x).unpack(buffer.get());
      // The inverse of Swapped::part: (C, O / groups) and every `step`-th tap, in reverse order.
      const int64_t rows = (kh - 1 - y) / step[0], columns = (kw - 1 - x) / step[1];
      for (int64_t channel = 0; channel < c * groups_; ++channel)
        for (int64_t i = 0; i < inputs; ++i)
          for (int64_t r = rows; r >= 0; --r)
            for (int64_t s = columns; s >= 0; --s)
              dst[(((channel / c * inputs + i) * c + channel % c) * kh + y + r * step[0]) * kw + x + s * step[1]] =
                  *from++;
    }
}

bool TransposedWeight::fits(const Conv2dDesc& d) const {
  return shape_ == Shape4{d.o, d.c_per_group(), d.kh(), d.kw()} && groups_ == d.groups && stride_ == d.window.stride &&
         dilation_ == d.window.dilation;
}

Phase phase_of(const Conv2dDesc& d, int dimension, int64_t first) {
  const Window& w = d.window;
  const int64_t size = dimension == 0 ? d.h : d.w, reached = first + (dimension == 0 ? w.top : w.left);
  const int64_t stride = w.stride[dimension], dilation = w.dilation[dimension], kernel = w.kernel[dimension];
  Phase p{first, stride, ceil_div(size - first, stride), 0, 0, tap_step(stride, dilation), 0, 0};
  p.dilation = dilation * p.tap_step / stride;
  const int64_t end = std::min(p.tap_step, kernel);
  while (p.tap < end && (reached - p.tap * dilation) % stride != 0) ++p.tap;
  if (p.tap == end) return p;
  p.taps = (kernel - 1 - p.tap) / p.tap_step + 1;
  p.before = (p.taps - 1) * p.dilation - (reached - p.tap * dilation) / stride;
  return p;
}

Conv2dDesc phase_conv2d(const Conv2dDesc& d, const Phase& y, const Phase& x) {
  const auto after = [](const Phase& p, int64_t size) {
    return p.count - 1 + (p.taps - 1) * p.dilation + 1 - size - p.before;
  };
  Window w;
  w.kernel = {y.taps, x.taps};
  w.dilation = {y.dilation, x.dilation};
  w.top = y.before;
  w.bottom = after(y, d.oh);
  w.left = x.before;
  w.right = after(x, d.ow);
  return {d.n, d.o, d.oh, d.ow, d.c, y.count, x.count, d.groups, w};
}

std::string cheapest_conv_transpose2d(const Conv2dDesc& d, bool winograd) {
  switch (way_of("auto", has_few_channels(d.c_per_group(), d.taps(), d.groups, active_table()), d.window.stride,
                 d.groups)) {
    case TransposedWay::windows:
      return "windows";
    case TransposedWay::phases:
      return "phases";
    default:
      break;
  }
  const Conv2dDesc p = only_phase(d);
  const std::string name = cheapest_conv2d(p, winograd && p.groups == 1);
  return is_cropped(p.window) && name == "stem" ? "direct" : name;
}

void reserve_conv_transpose2d(const Conv2dDesc& d, const ConvTranspose2dArgs& args, bool any_layout, Scratch& scratch) {
  if (args.weight->way() == TransposedWay::convolution) {
    const Conv2dDesc p = only_phase(d);
    return reserve_conv2d(convolution_of(p, *args.weight), p, convolution_args(args), any_layout, scratch);
  }
  if (any_layout) scratch.take<float>(checked_mul(checked_mul(d.n, d.o), checked_mul(d.oh, d.ow)));
  const bool windows = args.weight->way() == TransposedWay::windows;
  (windows ? reserve_transposed_windows : reserve_transposed_phases)(d, args, scratch);
}

void run_conv_transpose2d(const Conv2dDesc& d, const ConvTranspose2dArgs& args, Scratch& scratch) {
  if (d.n == 0) return;
  if (args.weight->way() == TransposedWay::convolution) {
    const Conv2dDesc p = only_phase(d);
    return run_conv2d(convolution_of(p, *args.weight), p, convolution_args(args), scratch);
  }
  ConvTranspose2dArgs converted = args;
  if (!args.src.is_channels_last()) {
    float* copy = scratch.take<float>(args.src.count());
    copy_to_channels_last(args.src, copy);
    converted.src = channels_last_view(copy, args.src.shape);
  }
  const bool windows = args.weight->way() == TransposedWay::windows;
  (windows ? run_transposed_windows : run_transposed_phases)(d, converted, scratch);
}

void run_conv_transpose2d(const Conv2dDesc& d, const ConvTranspose2dArgs& args) {
  if (d.n == 0) return;
  const bool any_layout = !args.src.is_channels_last();
  with_scratch([&](Scratch& scratch) { reserve_conv_transpose2d(d, args, any_layout, scratch); },
               [&](Scratch& scratch) { run_conv_transpose2d(d, args, scratch); });
}

}  // namespace convlane
