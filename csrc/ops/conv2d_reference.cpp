// Convolution by its definition: nested loops, any layout, no packing, no SIMD. Slow and meant to be read:
// dst[n, o, oh, ow] = bias[o] + sum over i, r, s of src[n, i, oh * stride + r * dilation - top, ...] * weight[o, i, r,
// s]
#include "ops/conv2d.h"
#include "ops/parallel.h"

namespace convlane {
namespace {

float window_sum(const Conv2dDesc& d, const Conv2dArgs& args, int64_t n, int64_t o, int64_t oh, int64_t ow) {
  const Window& w = d.window;
  const ImageView& src = args.src;
  const int64_t first_channel = o / d.o_per_group() * d.c_per_group();
  const float* weight = args.weight->data() + o * d.c_per_group() * d.taps();
  float sum = args.epilogue.bias != nullptr ? args.epilogue.bias[o] : 0;
  for (int64_t r = 0; r < d.kh(); ++r) {
    const int64_t ih = oh * w.stride[0] - w.top + r * w.dilation[0];
    for (int64_t s = 0; s < d.kw(); ++s) {
      const int64_t iw = ow * w.stride[1] - w.left + s * w.dilation[1];
      if (ih < 0 || ih >= d.h || iw < 0 || iw >= d.w) continue;
      for (int64_t i = 0; i < d.c_per_group(); ++i)
        sum += src.data[n * src.strides[0] + (first_channel + i) * src.strides[1] + ih * src.strides[2] +
                        iw * src.strides[3]] *
               weight[(i * d.kh() + r) * d.kw() + s];
    }
  }
  return sum;
}

}  // namespace

void run_reference(const Conv2dDesc& d, const Conv2dArgs& args, Scratch&) {
  const Epilogue& e = args.epilogue;
  parallel_for(d.n * d.oh, threads_for(d.multiply_adds(), args.threads), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t ow = 0; ow < d.ow; ++ow) {
        float* dst = args.dst + (row * d.ow + ow) * args.dst_stride;
        for (int64_t o = 0; o < d.o; ++o) {
          dst[o] = window_sum(d, args, row / d.oh, o, row % d.oh, ow);
          if (e.residual != nullptr) dst[o] += e.residual[(row * d.ow + ow) * e.residual_stride + o];
        }
        args.weight->kernels().activate(dst, dst, d.o, e.activation, e.slope);
      }
    }
  });
}

}  // namespace convlane
