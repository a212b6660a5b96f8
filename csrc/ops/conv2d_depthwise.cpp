// Depthwise convolution: every output channel reads one input channel. The unit of work is a band of output rows.
#include <cstring>
#include <utility>

#include "ops/conv2d.h"
#include "ops/parallel.h"
#include "runtime/machine.h"

namespace convlane {
namespace {

// A column of pixels with a column of taps is treated as a row with a row, because neighbouring outputs share loads
// only within rows.
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

// Blocks of channels that are copied before they are convolved. Where a pixel's channels fill 2 or 4 KB, neighbouring
// pixels' vectors map to a few sets of the first-level cache, and the taps of a pixel evict each other. Copies of
// neighbouring pixels lie an odd number of lines apart: 1024 channels of 43x43 by 11x11 take 5 ms instead of 18 (AVX2,
// EPYC Zen 4, 2026-11-27).
struct ChannelBlocks {
  static constexpr int64_t kLine = 16;
  bool are_copied;
  int64_t channels, step;  // of a block, and floats between two pixels

  explicit ChannelBlocks(const Conv2dDesc& d) : are_copied(false), channels(d.o), step(d.o) {
    // An 8-way cache has at least 64 sets. A copy pays off if at least this many taps read each pixel.
    constexpr int64_t kAliased = 512, kFewUses = 25;
    const Window& w = d.window;
    if (d.o_per_group() != 1 || d.oh == 1 || d.o % kAliased != 0 || d.taps() < kFewUses * w.stride[0] * w.stride[1])
      return;
    are_copied = true;
    // Several adjacent lines of a pixel at a time, because caches fetch lines in pairs, and no prefetcher finds one
    // line in every 2 KB: 1024 channels of 43x43 by 11x11 with stride 2 are 2.4 times as fast with 8 lines as with one
    // (AVX-512, Xeon of the second generation, 2026-11-27). But twice the rows that the kernel covers must fit into
    // half of the second-level cache.
    constexpr int64_t kMostLines = 8;
    const int64_t rows = 2 * ((d.kh() - 1) * w.dilation[0] + 1);
    const int64_t lines = std::clamp<int64_t>(second_level_floats(2) / (d.w * rows * kLine), 1, kMostLines);
    channels = lines * kLine;
    step = (lines | 1) * kLine;
  }
};

// Output rows per task, or columns where there is only one row. Without a multiplier only the threads' load balance
// limits them; with one, or with copies, the scratch that holds the repeated or copied rows does.
int64_t outputs_per_band(const Conv2dDesc& d, const ChannelBlocks& blocks, int threads) {
  const Window& w = d.window;
  const int64_t balanced = ceil_div(d.oh == 1 ? d.ow : d.oh, threads > 1 ? 2 * threads : 1);
  if (blocks.are_copied) {
    const int64_t reach = (d.kh() - 1) * w.dilation[0] + 1, fit = second_level_floats(2) / (d.w * blocks.step);
    return std::clamp<int64_t>((fit - reach) / w.stride[0] + 1, 1, d.oh);
  }
  if (d.o_per_group() == 1 || d.oh == 1) return balanced;
  return std::clamp<int64_t>(second_level_floats(4) / (d.w * d.o * w.stride[0]), 1, balanced);
}

// How the outputs are split, and the scratch of a run.
struct Bands {
  ChannelBlocks blocks;
  int threads;
  int64_t width;  // floats per input row as the kernel sees it
  int64_t outputs, count;
  int64_t inputs;          // input rows that a band needs
  float* zeros;            // one row
  const float** pointers;  // to the inputs, of each thread
  float* rows;             // the inputs of each thread, repeated for a multiplier or copied
  float* weights;          // of a block for each thread, if rows are copied

  Bands(const Conv2dDesc& d, int limit, Scratch& scratch) : blocks(d) {
    const Window& w = d.window;
    threads = threads_for(d.multiply_adds(), limit);
    width = d.w * blocks.step;
    outputs = outputs_per_band(d, blocks, threads);
    count = ceil_div(d.oh == 1 ? d.ow : d.oh, outputs);
    inputs = ((d.oh == 1 ? 1 : outputs) - 1) * w.stride[0] + (d.kh() - 1) * w.dilation[0] + 1;
    zeros = scratch.take<float>(width);
    pointers = scratch.take<const float*>(checked_mul(threads, inputs));
    const bool has_rows = d.o_per_group() != 1 || blocks.are_copied;
    rows = scratch.take<float>(has_rows ? checked_mul(checked_mul(threads, inputs), width) : 0);
    weights = scratch.take<float>(blocks.are_copied ? checked_mul(checked_mul(threads, d.taps()), blocks.step) : 0);
  }
};

// Some channels of each of `count` pixels.
void copy_pixels(const float* src, int64_t src_step, int64_t count, int64_t channels, float* dst, int64_t step) {
  for (int64_t x = 0; x < count; ++x) std::memcpy(dst + x * step, src + x * src_step, sizeof(float) * channels);
}

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
  const ChannelBlocks& blocks = b.blocks;
  const int64_t multiplier = d.o_per_group(), block_count = ceil_div(d.o, blocks.channels);
  const bool has_rows = multiplier != 1 || blocks.are_copied;
  std::memset(b.zeros, 0, sizeof(float) * b.width);

  parallel_for(d.n * b.count * block_count, b.threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    const float** rows = b.pointers + thread * b.inputs;
    float* own = b.rows + (has_rows ? thread * b.inputs * b.width : 0);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t channel = task % block_count * blocks.channels, band = task / block_count;
      const int64_t image = band / b.count, first = band % b.count * b.outputs;
      DepthwiseArgs k = depthwise_args(d, *args.weight, args.epilogue);
      k.src_stride = blocks.step;
      k.channels = std::min(blocks.channels, d.o - channel);
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
        rows[y] = args.src.data + (image * d.h + ih) * d.w * d.c + channel;
        if (!has_rows) continue;
        float* to = own + y * b.width;
        if (blocks.are_copied)
          copy_pixels(rows[y], d.c, d.w, k.channels, to, blocks.step);
        else
          kernels.repeat_channels(rows[y], d.w * d.c, multiplier, to);
        rows[y] = to;
      }
      if (blocks.are_copied) {
        float* weights = b.weights + thread * d.taps() * blocks.step;
        copy_pixels(args.weight->data() + channel, d.o, d.taps(), k.channels, weights, blocks.step);
        k.weight = weights;
        k.weight_stride = blocks.step;
      }
      k.rows = rows;
      k.zeros = b.zeros;
      k.dst = args.dst + pixel * args.dst_stride + channel;
      k.dst_stride = args.dst_stride;
      if (k.epilogue.bias != nullptr) k.epilogue.bias += channel;
      if (k.epilogue.residual != nullptr) k.epilogue.residual += pixel * k.epilogue.residual_stride + channel;
      kernels.depthwise(k);
    }
  });
}

}  // namespace convlane
