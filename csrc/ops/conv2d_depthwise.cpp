// Depthwise convolution: every output channel sees one input channel. Bands of output rows are the unit of work.
#include <cstring>
#include <utility>

#include "ops/conv2d.h"
#include "ops/parallel.h"
#include "runtime/machine.h"

namespace convlane {
namespace {

// A column of pixels that meets a column of taps is a row that meets a row: neighbouring outputs share what they load
// within rows only.
Conv2dDesc laid_down(const Conv2dDesc& d) {
  const Window& w = d.window;
  if (d.w != 1 || d.kw() != 1 || w.left != 0 || w.right != 0) return d;
  Conv2dDesc r = d;
  std::swap(r.h, r.w);
  std::swap(r.oh, r.ow);
  std::swap(r.window.kernel[0], r.window.kernel[1]);
  std::swap(r.window.stride[0], r.window.stride[1]);
  std::swap(r.window.dilation[0], r.window.dilation[1]);
  std::swap(r.window.top, r.window.left);
  std::swap(r.window.bottom, r.window.right);
  return r;
}

// Output rows per task, or columns where there is but one row. Without a multiplier only the balance of threads limits
// them; with one, the scratch that holds the repeated rows does.
int64_t outputs_per_band(const Conv2dDesc& d, int threads) {
  const int64_t balanced = ceil_div(d.oh == 1 ? d.ow : d.oh, threads > 1 ? 2 * threads : 1);
  if (d.o_per_group() == 1 || d.oh == 1) return balanced;
  return std::clamp<int64_t>(second_level_floats(4) / (d.w * d.o * d.window.stride[0]), 1, balanced);
}

// How the outputs are split, and the scratch of a run.
struct Bands {
  int threads;
  int64_t width;  // floats per input row as the kernel sees it
  int64_t outputs, count;
  int64_t inputs;          // rows under a band
  float* zeros;            // a row
  const float** pointers;  // to the inputs, of each thread
  float* repeated;         // with a multiplier, the inputs of each thread

  Bands(const Conv2dDesc& d, int limit, Scratch& scratch) {
    const Window& w = d.window;
    threads = threads_for(d.multiply_adds(), limit);
    width = d.w * d.o;
    outputs = outputs_per_band(d, threads);
    count = ceil_div(d.oh == 1 ? d.ow : d.oh, outputs);
    inputs = ((d.oh == 1 ? 1 : outputs) - 1) * w.stride[0] + (d.kh() - 1) * w.dilation[0] + 1;
    zeros = scratch.take<float>(width);
    pointers = scratch.take<const float*>(checked_mul(threads, inputs));
    repeated = scratch.take<float>(d.o_per_group() == 1 ? 0 : checked_mul(checked_mul(threads, inputs), width));
  }
};

}  // namespace

DepthwiseArgs depthwise_args(const Conv2dDesc& d, const PackedWeight& weight, const Epilogue& epilogue) {
  DepthwiseArgs k{};
  k.src_stride = d.o;  // a pixel with its channels repeated for the multiplier
  k.width = d.w;
  k.left = d.window.left;
  k.out_width = d.ow;
  k.channels = d.o;
  k.kernel_h = d.kh();
  k.kernel_w = d.kw();
  k.stride_h = d.window.stride[0];
  k.stride_w = d.window.stride[1];
  k.dilation_h = d.window.dilation[0];
  k.dilation_w = d.window.dilation[1];
  k.weight = weight.data();
  k.weight_stride = d.o;
  k.dst_stride = d.o;
  k.epilogue = epilogue;
  return k;
}

void reserve_depthwise(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  Bands(laid_down(d), args.threads, scratch);
}

void run_depthwise(const Conv2dDesc& given, const Conv2dArgs& args, Scratch& scratch) {
  const Conv2dDesc d = laid_down(given);
  const Window& w = d.window;
  const Bands b(d, args.threads, scratch);
  const KernelTable& kernels = args.weight->kernels();
  const int64_t multiplier = d.o_per_group();
  std::memset(b.zeros, 0, sizeof(float) * b.width);

  parallel_for(d.n * b.count, b.threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    const float** rows = b.pointers + thread * b.inputs;
    float* own = b.repeated + (multiplier == 1 ? 0 : thread * b.inputs * b.width);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / b.count, first = task % b.count * b.outputs;
      DepthwiseArgs k = depthwise_args(d, *args.weight, args.epilogue);
      int64_t pixel = image * d.oh * d.ow, row = 0;
      if (d.oh == 1) {
        k.out_rows = 1;
        k.out_width = std::min(b.outputs, d.ow - first);
        k.left -= first * k.stride_w;
        pixel += first;
      } else {
        k.out_rows = std::min(b.outputs, d.oh - first);
        pixel += first * d.ow;
        row = first * w.stride[0];
      }
      const int64_t inputs = (k.out_rows - 1) * w.stride[0] + (d.kh() - 1) * w.dilation[0] + 1;
      for (int64_t y = 0; y < inputs; ++y) {
        const int64_t ih = row - w.top + y;
        if (ih < 0 || ih >= d.h) {
          rows[y] = b.zeros;
          continue;
        }
        rows[y] = args.src.data + (image * d.h + ih) * d.w * d.c;
        if (multiplier == 1) continue;
        kernels.repeat_channels(rows[y], d.w * d.c, multiplier, own + y * b.width);
        rows[y] = own + y * b.width;
      }
      k.rows = rows;
      k.zeros = b.zeros;
      k.dst = args.dst + pixel * args.dst_stride;
      k.dst_stride = args.dst_stride;
      if (k.epilogue.residual != nullptr) k.epilogue.residual += pixel * k.epilogue.residual_stride;
      kernels.depthwise(k);
    }
  });
}

}  // namespace convlane
