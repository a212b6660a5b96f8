// Gradient of convolution's input, as convolutions of the output's gradient with stride 1.
//
// Along one dimension, input x meets output y through tap r where x = y * stride + r * dilation - before. So inputs of
// one residue modulo the stride meet every few taps only, and for them it is a convolution with stride 1 by those taps
// in reverse order; no zeros are multiplied. With stride 1 there is one residue, and the convolution may take any
// algorithm; else results are written `stride` pixels apart.
//
// Two cases have better ways: depthwise filters with stride 2, and images of few channels, of which a convolution would
// leave most lanes of a vector empty. There a matrix product gives for every output what it adds to its whole window.
#include <cstring>
#include <numeric>

#include "ops/conv2d_backward.h"
#include "ops/rows_gemm.h"

namespace convlane {
namespace {

// One dimension's inputs of one residue.
struct Phase {
  int64_t first, step, count;  // input indices
  int64_t taps;                // how many of the kernel meet them; maybe none
  int64_t tap, tap_step;       // the first of these taps, and what lies between two
  int64_t dilation, before;    // of the convolution over the gradient; negative padding crops
};

Phase phase_of(const Conv2dDesc& d, int dimension, int64_t first) {
  const Window& w = d.window;
  const int64_t size = dimension == 0 ? d.h : d.w, before = dimension == 0 ? w.top : w.left;
  const int64_t stride = w.stride[dimension], dilation = w.dilation[dimension], kernel = w.kernel[dimension];
  const int64_t common = std::gcd(stride, dilation), reached = first + before;
  Phase p{first, stride, ceil_div(size - first, stride), 0, 0, stride / common, dilation / common, 0};
  while (p.tap < std::min(p.tap_step, kernel) && (reached - p.tap * dilation) % stride != 0) ++p.tap;
  if (p.tap == std::min(p.tap_step, kernel)) return p;
  p.taps = (kernel - 1 - p.tap) / p.tap_step + 1;
  p.before = (p.taps - 1) * p.dilation - (reached - p.tap * dilation) / stride;
  return p;
}

// The convolution of the gradient that gives the inputs of two phases. Padding after the image only completes it.
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

// The weight as that of a convolution from outputs to inputs: (C, O / groups, KH, KW).
class Transposed {
 public:
  Transposed(const Conv2dDesc& d, const ImageView& weight) : view_(weight) {
    const int64_t c = d.c_per_group(), o = d.o_per_group(), taps = d.taps();
    view_.shape = {d.c, o, d.kh(), d.kw()};
    std::swap(view_.strides[0], view_.strides[1]);
    if (d.groups == 1) return;
    if (c == 1) {
      view_.strides[0] = o * weight.strides[0];
      return;
    }
    copy_ = allocate_aligned<float>(weight.count());
    const Shape4 to{o * taps, taps, d.kw(), 1};
    for (int64_t g = 0; g < d.groups; ++g) {
      const ImageView group{weight.data + g * o * weight.strides[0],
                            {c, o, d.kh(), d.kw()},
                            {weight.strides[1], weight.strides[0], weight.strides[2], weight.strides[3]}};
      copy_image(group, copy_.get() + g * c * o * taps, to);
    }
    view_ = {copy_.get(), view_.shape, to};
  }

  // The taps of two phases in reverse order.
  ImageView taps_of(const Phase& y, const Phase& x) const {
    const auto [rows, columns] = Pair{view_.strides[2], view_.strides[3]};
    const int64_t last = (y.tap + (y.taps - 1) * y.tap_step) * rows + (x.tap + (x.taps - 1) * x.tap_step) * columns;
    return {view_.data + last,
            {view_.shape[0], view_.shape[1], y.taps, x.taps},
            {view_.strides[0], view_.strides[1], -y.tap_step * rows, -x.tap_step * columns}};
  }

 private:
  AlignedArray<float> copy_;
  ImageView view_;
};

// Where the inputs of two phases lie in dst, by their number.
struct Places {
  const Conv2dDesc& d;
  const Phase &y, &x;
  float* dst;

  float* row(int64_t image, int64_t i) const {
    return dst + ((image * d.h + y.first + i * y.step) * d.w + x.first) * d.c;
  }
  int64_t pixel_stride() const { return x.step * d.c; }
  float* operator()(int64_t index) const {
    return row(index / (x.count * y.count), index / x.count % y.count) + index % x.count * pixel_stride();
  }
};

void fill_zeros(const Conv2dDesc& d, const Places& at) {
  const int64_t rows = d.n * at.y.count;
  parallel_for(rows, threads_for(rows * at.x.count * d.c), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t i = begin * at.x.count; i < end * at.x.count; ++i) std::memset(at(i), 0, sizeof(float) * d.c);
  });
}

void run_scattered(const Conv2dDesc& p, const float* gradient, const PackedWeight& weight, const Places& at) {
  const auto zeros = allocate_aligned<float>(p.c);
  std::memset(zeros.get(), 0, sizeof(float) * p.c);
  Conv2dArgs args{};
  args.weight = &weight;
  args.threads = num_threads();
  const RowsGemm product = conv2d_gemm(p, args);
  with_scratch([&](Scratch& scratch) { RowsGemmParts(product, true, scratch); },
               [&](Scratch& scratch) {
                 rows_gemm(
                     product, scratch,
                     [&](int64_t first, int64_t count, const float** rows) noexcept {
                       fill_pixel_rows(p, gradient, zeros.get(), first, count, rows);
                     },
                     at);
               });
}

void run_scattered_depthwise(const Conv2dDesc& p, const float* gradient, const PackedWeight& weight, const Places& at) {
  const int threads = threads_for(p.multiply_adds());
  const auto zeros = allocate_aligned<float>(p.w * p.c);
  std::memset(zeros.get(), 0, sizeof(float) * p.w * p.c);
  const auto pointers = allocate_aligned<const float*>(checked_mul(threads, p.kh()));
  parallel_for(p.n * p.oh, threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    DepthwiseArgs k = depthwise_args(p, weight, {});
    const float** rows = pointers.get() + thread * p.kh();
    k.rows = rows;
    k.dilation_h = 1;  // `rows` are those that the taps meet
    k.out_rows = 1;
    k.dst_stride = at.pixel_stride();
    for (int64_t index = begin; index < end; ++index) {
      const int64_t image = index / p.oh, y = index % p.oh;
      for (int64_t r = 0; r < p.kh(); ++r) {
        const int64_t ih = y - p.window.top + r * p.window.dilation[0];
        rows[r] = ih < 0 || ih >= p.h ? zeros.get() : gradient + (image * p.h + ih) * p.w * p.c;
      }
      k.dst = at.row(image, y);
      weight.kernels().depthwise(k);
    }
  });
}

bool has_depthwise_kernel(const Conv2dDesc& d) {
  const Window& w = d.window;
  return d.groups > 1 && d.c_per_group() == 1 && d.o_per_group() == 1 &&
         (w.kernel == Pair{3, 3} || w.kernel == Pair{5, 5}) && w.stride == Pair{2, 2} && w.dilation == Pair{1, 1};
}

void run_depthwise_input_gradient(const Conv2dDesc& d, const float* gradient, const ImageView& weight, float* dst) {
  const PackedWeight packed(weight, d.groups, WeightLayout::depthwise);
  const int64_t rows = d.n * d.h, row = d.w * d.c;
  parallel_for(rows, threads_for(rows * row), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t image = index / d.h, reached = index % d.h + d.window.top;
      DepthwiseInputGradientArgs k{};
      for (int64_t r = reached % 2; r < d.kh(); r += 2) {
        const int64_t oh = (reached - r) / 2;
        if (reached < r || oh >= d.oh) continue;
        k.rows[k.count] = gradient + (image * d.oh + oh) * d.ow * d.c;
        k.weights[k.count++] = packed.data() + r * d.kw() * d.c;
      }
      k.kernel = d.kw();
      k.row_width = d.ow;
      k.left = d.window.left;
      k.width = d.w;
      k.channels = d.c;
      k.dst = dst + index * row;
      if (k.count == 0)
        std::memset(k.dst, 0, sizeof(float) * row);
      else
        packed.kernels().depthwise_input_gradient(k);
    }
  });
}

bool has_few_channels(const Conv2dDesc& d, const KernelTable& kernels) {
  return d.groups == 1 && d.taps() > 1 && 2 * d.c <= kernels.lanes;
}

// The weight as a matrix from outputs to windows: (KH * KW * C, O).
PackedWeight window_weight(const Conv2dDesc& d, const ImageView& weight) {
  const auto rows = allocate_aligned<float>(weight.count());
  float* to = rows.get();
  for (int64_t r = 0; r < d.kh(); ++r)
    for (int64_t s = 0; s < d.kw(); ++s)
      for (int64_t c = 0; c < d.c; ++c)
        for (int64_t o = 0; o < d.o; ++o)
          *to++ =
              weight
                  .data[o * weight.strides[0] + c * weight.strides[1] + r * weight.strides[2] + s * weight.strides[3]];
  return {{rows.get(), {d.taps() * d.c, d.o, 1, 1}, {d.o, 1, 1, 1}}, 1, WeightLayout::panels};
}

// Adds the window of output (oh, ow) to an image.
void add_window(const Conv2dDesc& d, const KernelTable& kernels, const float* window, int64_t oh, int64_t ow,
                float* image) {
  const Window& w = d.window;
  const int64_t left = ow * w.stride[1] - w.left;
  const Range inside = valid_outputs(left, w.dilation[1], d.w, d.kw());
  const int64_t step = w.dilation[1] == 1 ? std::max<int64_t>(inside.end - inside.begin, 1) : 1;  // taps side by side
  for (int64_t r = 0; r < d.kh(); ++r, window += d.kw() * d.c) {
    const int64_t ih = oh * w.stride[0] - w.top + r * w.dilation[0];
    if (ih < 0 || ih >= d.h) continue;
    for (int64_t s = inside.begin; s < inside.end; s += step) {
      float* to = image + (ih * d.w + left + s * w.dilation[1]) * d.c;
      kernels.add(to, window + s * d.c, to, step * d.c, Activation::none, 0);
    }
  }
}

void run_by_windows(const Conv2dDesc& d, const float* gradient, const ImageView& weight, float* dst) {
  const PackedWeight packed = window_weight(d, weight);
  const KernelTable& kernels = packed.kernels();
  const int threads = threads_for(d.multiply_adds());
  const int64_t columns = d.taps() * d.c, image = d.h * d.w * d.c;
  const auto buffer = allocate_aligned<float>(checked_mul(threads * d.ow, columns));
  const auto pointers = allocate_aligned<const float*>(checked_mul(threads, d.ow));
  parallel_for(d.n, threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    float* windows = buffer.get() + thread * d.ow * columns;
    const float** rows = pointers.get() + thread * d.ow;
    GemmArgs g{};
    g.rows = rows;
    g.rows_stride = g.m = d.ow;
    g.n = columns;
    g.taps = 1;
    g.depth = d.o;
    g.weight = packed.data();
    g.weight_end = packed.end();
    g.dst = windows;
    g.dst_stride = columns;
    for (int64_t i = begin; i < end; ++i) {
      std::memset(dst + i * image, 0, sizeof(float) * image);
      for (int64_t oh = 0; oh < d.oh; ++oh) {
        for (int64_t ow = 0; ow < d.ow; ++ow) rows[ow] = gradient + ((i * d.oh + oh) * d.ow + ow) * d.o;
        kernels.gemm.run(g);
        for (int64_t ow = 0; ow < d.ow; ++ow) add_window(d, kernels, windows + ow * columns, oh, ow, dst + i * image);
      }
    }
  });
}

// As for any convolution, but the stem's algorithm copies images with their padding and cannot crop them.
std::string algorithm_for(const Conv2dDesc& p) {
  const std::string name = cheapest_conv2d(p, true);
  const bool cropped = std::min({p.window.top, p.window.bottom, p.window.left, p.window.right}) < 0;
  return name == "stem" && cropped ? "direct" : name;
}

}  // namespace

void run_conv2d_input_gradient(const Conv2dDesc& d, const ImageView& gradient, const ImageView& weight, float* dst) {
  if (d.n == 0) return;
  if (has_few_channels(d, active_table())) {
    const ChannelsLast source(gradient);
    return run_by_windows(d, source.view().data, weight, dst);
  }
  const Transposed transposed(d, weight);
  const Pair stride = d.window.stride;
  if (stride == Pair{1, 1}) {
    const Phase y = phase_of(d, 0, 0), x = phase_of(d, 1, 0);
    const Conv2dDesc p = phase_conv2d(d, y, x);
    const ImageView taps = transposed.taps_of(y, x);
    const std::string algorithm = algorithm_for(p);
    const PackedWeight packed(taps, d.groups, conv2d_weight_layout(taps.shape, d.groups, algorithm));
    run_conv2d(choose_conv2d(p, algorithm, packed.layout()), p, {gradient, &packed, {}, dst, d.c, num_threads()});
    return;
  }
  const ChannelsLast source(gradient);
  if (has_depthwise_kernel(d)) return run_depthwise_input_gradient(d, source.view().data, weight, dst);
  for (int64_t first_y = 0; first_y < std::min(stride[0], d.h); ++first_y) {
    const Phase y = phase_of(d, 0, first_y);
    for (int64_t first_x = 0; first_x < std::min(stride[1], d.w); ++first_x) {
      const Phase x = phase_of(d, 1, first_x);
      const Places at{d, y, x, dst};
      if (y.taps * x.taps == 0) {
        fill_zeros(d, at);
        continue;
      }
      const ImageView taps = transposed.taps_of(y, x);
      const bool depthwise = d.groups > 1 && d.c_per_group() == 1 && d.o_per_group() == 1;
      const PackedWeight packed(taps, d.groups, depthwise ? WeightLayout::depthwise : WeightLayout::panels);
      const auto run = depthwise ? run_scattered_depthwise : run_scattered;
      run(phase_conv2d(d, y, x), source.view().data, packed, at);
    }
  }
}

}  // namespace convlane
