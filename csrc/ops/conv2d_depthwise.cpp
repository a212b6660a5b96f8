// Depthwise convolution: every output channel sees one input channel. Bands of output rows are the unit of work.
#include <cstring>

#include "ops/conv2d.h"
#include "ops/parallel.h"

namespace convlane {
namespace {

// One row of input pixels with every channel repeated `multiplier` times.
void repeat_channels(const float* src, int64_t count, int64_t multiplier, float* dst) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < multiplier; ++j) *dst++ = src[i];
}

// Output rows per task. Without a multiplier only the balance of threads limits them; with one, the scratch that
// holds the repeated rows does.
int64_t rows_per_band(const Conv2dDesc& d, int threads) {
  constexpr int64_t kScratchFloats = 64 * 1024;
  const int64_t balanced = ceil_div(d.oh, threads > 1 ? 2 * threads : 1);
  if (d.o_per_group() == 1) return balanced;
  return std::clamp<int64_t>(kScratchFloats / (d.w * d.o * d.window.stride[0]), 1, balanced);
}

// How the output rows are split, and the scratch of a run.
struct Bands {
  int threads;
  int64_t width;  // floats per input row as the kernel sees it
  int64_t rows, count;
  int64_t inputs;          // rows under a band
  float* zeros;            // a row
  const float** pointers;  // to the inputs, of each thread
  float* repeated;         // with a multiplier, the inputs of each thread

  Bands(const Conv2dDesc& d, int limit, Scratch& scratch) {
    const Window& w = d.window;
    threads = threads_for(d.multiply_adds(), limit);
    width = d.w * d.o;
    rows = rows_per_band(d, threads);
    count = ceil_div(d.oh, rows);
    inputs = (rows - 1) * w.stride[0] + (d.kh() - 1) * w.dilation[0] + 1;
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
  Bands(d, args.threads, scratch);
}

void run_depthwise(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  const Window& w = d.window;
  const Bands b(d, args.threads, scratch);
  const int64_t width = b.width, band = b.rows, bands = b.count, band_inputs = b.inputs;
  float *const zeros = b.zeros, *const repeated = b.repeated;
  const float** const pointers = b.pointers;
  const int64_t multiplier = d.o_per_group();
  std::memset(zeros, 0, sizeof(float) * width);

  parallel_for(d.n * bands, b.threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    const float** rows = pointers + thread * band_inputs;
    float* own = repeated + (multiplier == 1 ? 0 : thread * band_inputs * width);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / bands, first = task % bands * band, count = std::min(band, d.oh - first);
      const int64_t inputs = (count - 1) * w.stride[0] + (d.kh() - 1) * w.dilation[0] + 1;
      for (int64_t y = 0; y < inputs; ++y) {
        const int64_t ih = first * w.stride[0] - w.top + y;
        if (ih < 0 || ih >= d.h) {
          rows[y] = zeros;
          continue;
        }
        rows[y] = args.src.data + (image * d.h + ih) * d.w * d.c;
        if (multiplier == 1) continue;
        repeat_channels(rows[y], d.w * d.c, multiplier, own + y * width);
        rows[y] = own + y * width;
      }
      const int64_t pixel = (image * d.oh + first) * d.ow;
      DepthwiseArgs k = depthwise_args(d, *args.weight, args.epilogue);
      k.rows = rows;
      k.out_rows = count;
      k.dst = args.dst + pixel * args.dst_stride;
      k.dst_stride = args.dst_stride;
      if (k.epilogue.residual != nullptr) k.epilogue.residual += pixel * k.epilogue.residual_stride;
      args.weight->kernels().depthwise(k);
    }
  });
}

}  // namespace convlane
