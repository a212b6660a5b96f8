// The textbook algorithm: write out the matrix whose rows are the unrolled windows, then multiply once. It allocates
// that matrix, KH * KW times the input; kept as a baseline to measure against and to learn from.
#include <cstring>

#include "ops/conv2d.h"
#include "ops/rows_gemm.h"

namespace convlane {
namespace {

// One window, [r][s][c], with zeros where it leaves the image.
void unroll_window(const Conv2dDesc& d, const float* src, int64_t pixel, float* dst) {
  const Window& w = d.window;
  const int64_t ow = pixel % d.ow, oh = pixel / d.ow % d.oh, image = pixel / (d.ow * d.oh);
  for (int64_t r = 0; r < d.kh(); ++r) {
    const int64_t ih = oh * w.stride[0] - w.top + r * w.dilation[0];
    for (int64_t s = 0; s < d.kw(); ++s, dst += d.c) {
      const int64_t iw = ow * w.stride[1] - w.left + s * w.dilation[1];
      if (ih >= 0 && ih < d.h && iw >= 0 && iw < d.w)
        std::memcpy(dst, src + ((image * d.h + ih) * d.w + iw) * d.c, sizeof(float) * d.c);
      else
        std::memset(dst, 0, sizeof(float) * d.c);
    }
  }
}

}  // namespace

void run_im2col(const Conv2dDesc& d, const Conv2dArgs& args) {
  const int64_t columns = checked_mul(d.taps(), d.c);
  const auto matrix = allocate_aligned<float>(checked_mul(d.pixels(), columns));
  parallel_for(d.pixels(), threads_for(d.pixels() * columns), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t pixel = begin; pixel < end; ++pixel)
      unroll_window(d, args.src.data, pixel, matrix.get() + pixel * columns);
  });
  RowsGemm p = conv2d_gemm(d, args);
  if (d.groups == 1) {  // with groups a window's channels are not contiguous
    p.taps = 1;
    p.depth = columns;
  }
  rows_gemm(p, [&](int64_t first, int64_t count, const float** rows) noexcept {
    for (int64_t tap = 0; tap < p.taps; ++tap)
      for (int64_t i = 0; i < count; ++i) rows[tap * count + i] = matrix.get() + (first + i) * columns + tap * d.c;
  });
}

}  // namespace convlane
