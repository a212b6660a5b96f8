// Gradient of convolution's input: a transposed convolution of the output's gradient, except for depthwise filters with
// stride 2, which have a kernel of their own, and filters that share input channels.
#include <cstring>

#include "ops/conv2d_backward.h"
#include "ops/conv_transpose2d.h"
#include "ops/parallel.h"

namespace convlane {
namespace {

bool is_depthwise(const Conv2dDesc& d) { return d.groups > 1 && d.c_per_group() == 1; }

bool has_depthwise_kernel(const Conv2dDesc& d) {
  const Window& w = d.window;
  return is_depthwise(d) && d.o_per_group() == 1 && (w.kernel == Pair{3, 3} || w.kernel == Pair{5, 5}) &&
         w.stride == Pair{2, 2} && w.dilation == Pair{1, 1};
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

// Filters that share an input channel: each is treated as if it had its own, and the gradients are then added up.
void run_shared_channels(const Conv2dDesc& d, const ImageView& gradient, const ImageView& weight, float* dst) {
  Conv2dDesc each = d;
  each.c = each.groups = d.o;
  const int64_t pixels = d.n * d.h * d.w, multiplier = d.o_per_group();
  const auto apart = allocate_aligned<float>(checked_mul(pixels, d.o));
  run_conv2d_input_gradient(each, gradient, weight, apart.get());
  const auto sum_groups = active_table().sum_groups;
  parallel_for(pixels, threads_for(pixels * d.o), [&](int64_t begin, int64_t end, int) noexcept {
    sum_groups(apart.get() + begin * d.o, (end - begin) * d.c, multiplier, dst + begin * d.c);
  });
}

}  // namespace

void run_conv2d_input_gradient(const Conv2dDesc& d, const ImageView& gradient, const ImageView& weight, float* dst) {
  if (d.n == 0) return;
  if (has_depthwise_kernel(d)) {
    const ChannelsLast source(gradient);
    return run_depthwise_input_gradient(d, source.view().data, weight, dst);
  }
  if (is_depthwise(d) && d.o_per_group() > 1) return run_shared_channels(d, gradient, weight, dst);
  const Window& w = d.window;
  const TransposedWeight packed(weight, w.stride, w.dilation, d.groups, cheapest_conv_transpose2d(d, true));
  run_conv_transpose2d(d, {gradient, &packed, {}, dst, d.c, num_threads()});
}

}  // namespace convlane
