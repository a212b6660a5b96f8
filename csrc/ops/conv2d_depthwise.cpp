// Depthwise convolution: every output channel sees one input channel. Row by row, channels last.
#include <cstring>

#include "ops/conv2d.h"
#include "ops/parallel.h"

namespace convlane {
namespace {

// One output row from `rows`, one pointer per kernel row to an input row of `width` pixels of O channels.
void depthwise_row(const Conv2dDesc& d, const Conv2dArgs& args, const float* const* rows, int64_t width, int64_t left,
                   int64_t output_row) {
  const int64_t stride = d.window.stride[1], dilation = d.window.dilation[1];
  DepthwiseArgs k{};
  k.rows = rows;
  k.channels = d.o;
  k.kernel_h = d.kh();
  k.kernel_w = d.kw();
  k.stride = stride;
  k.dilation = dilation;
  k.weight = args.weight->data();
  const auto run = [&](int64_t ow, int64_t pixels, int64_t tap_begin, int64_t tap_end) {
    k.column = ow * stride - left;
    k.pixels = pixels;
    k.tap_begin = tap_begin;
    k.tap_end = tap_end;
    const int64_t pixel = output_row * d.ow + ow;
    k.dst = args.dst + pixel * d.o;
    k.epilogue = args.epilogue;
    if (k.epilogue.residual != nullptr) k.epilogue.residual += pixel * k.epilogue.residual_stride;
    args.weight->kernels().depthwise(k);
  };
  // Pixels whose every tap is inside, and those at the sides, one by one with the taps that are.
  const int64_t begin = valid_outputs(-left, stride, width, d.ow).begin;
  const int64_t end = std::max(begin, valid_outputs((d.kw() - 1) * dilation - left, stride, width, d.ow).end);
  const auto side = [&](int64_t ow) {
    const Range taps = valid_outputs(ow * stride - left, dilation, width, d.kw());
    run(ow, 1, taps.begin, taps.end);
  };
  for (int64_t ow = 0; ow < begin; ++ow) side(ow);
  if (end > begin) run(begin, end - begin, 0, d.kw());
  for (int64_t ow = end; ow < d.ow; ++ow) side(ow);
}

// One row of input pixels with every channel repeated `multiplier` times.
void repeat_channels(const float* src, int64_t count, int64_t multiplier, float* dst) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < multiplier; ++j) *dst++ = src[i];
}

// Output rows per task when channels are repeated into scratch: enough to share most of the repeated rows.
int64_t rows_per_task(const Conv2dDesc& d) {
  constexpr int64_t kScratchFloats = 64 * 1024;
  return std::clamp<int64_t>(kScratchFloats / (d.w * d.o * d.window.stride[0]), 1, d.oh);
}

}  // namespace

void run_depthwise(const Conv2dDesc& d, const Conv2dArgs& args) {
  const Window& w = d.window;
  const int threads = threads_for(d.multiply_adds());
  const int64_t multiplier = d.o_per_group(), width = d.w * d.o;  // floats per input row as the kernel sees it
  const int64_t band = multiplier == 1 ? 1 : rows_per_task(d), bands = ceil_div(d.oh, band);
  const int64_t band_inputs = multiplier == 1 ? 0 : (band - 1) * w.stride[0] + (d.kh() - 1) * w.dilation[0] + 1;
  const auto zeros = allocate_aligned<float>(width);
  std::memset(zeros.get(), 0, sizeof(float) * width);
  const auto repeated = allocate_aligned<float>(checked_mul(checked_mul(threads, band_inputs), width));
  const auto pointers = allocate_aligned<const float*>(checked_mul(threads, d.kh()));

  parallel_for(d.n * bands, threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    const float** rows = pointers.get() + thread * d.kh();
    float* scratch = repeated.get() + thread * band_inputs * width;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / bands, first = task % bands * band, last = std::min(first + band, d.oh);
      const int64_t first_input = first * w.stride[0] - w.top;
      const float* src = args.src.data + image * d.h * d.w * d.c;
      for (int64_t y = 0; y < band_inputs; ++y)
        if (const int64_t ih = first_input + y; ih >= 0 && ih < d.h)
          repeat_channels(src + ih * d.w * d.c, d.w * d.c, multiplier, scratch + y * width);
      for (int64_t oh = first; oh < last; ++oh) {
        for (int64_t r = 0; r < d.kh(); ++r) {
          const int64_t ih = oh * w.stride[0] - w.top + r * w.dilation[0];
          rows[r] = ih < 0 || ih >= d.h ? zeros.get()
                    : multiplier == 1   ? src + ih * width
                                        : scratch + (ih - first_input) * width;
        }
        depthwise_row(d, args, rows, d.w, w.left, image * d.oh + oh);
      }
    }
  });
}

}  // namespace convlane
