// The textbook algorithm: write out the matrix whose rows are the unrolled windows, then multiply once. That matrix
// takes KH * KW times the input's memory; kept as a baseline to measure against and to learn from.
#include <cstring>

#include "ops/conv2d.h"
#include "ops/rows_gemm.h"

namespace convlane {

void unroll_window(const Conv2dDesc& d, const float* src, int64_t pixel, float* dst) {
  const Window& w = d.window;
  const int64_t ow = pixel % d.ow, oh = pixel / d.ow % d.oh, image = pixel / (d.ow * d.oh);
  const int64_t left = ow * w.stride[1] - w.left;
  const Range inside = valid_outputs(left, w.dilation[1], d.w, d.kw());
  const int64_t step = w.dilation[1] == 1 ? std::max<int64_t>(inside.end - inside.begin, 1) : 1;  // taps side by side
  for (int64_t r = 0; r < d.kh(); ++r, dst += d.kw() * d.c) {
    const int64_t ih = oh * w.stride[0] - w.top + r * w.dilation[0];
    const Range taken = ih < 0 || ih >= d.h ? Range{0, 0} : inside;
    const float* row = src + (image * d.h + ih) * d.w * d.c;
    std::memset(dst, 0, sizeof(float) * taken.begin * d.c);
    for (int64_t s = taken.begin; s < taken.end; s += step)
      std::memcpy(dst + s * d.c, row + (left + s * w.dilation[1]) * d.c, sizeof(float) * step * d.c);
    std::memset(dst + taken.end * d.c, 0, sizeof(float) * (d.kw() - taken.end) * d.c);
  }
}

namespace {

int64_t window_floats(const Conv2dDesc& d) { return checked_mul(d.taps(), d.c); }

RowsGemm window_gemm(const Conv2dDesc& d, const Conv2dArgs& args) {
  RowsGemm p = conv2d_gemm(d, args);
  p.padded = false;     // zeros are written out, too
  if (d.groups == 1) {  // with groups a window's channels are not contiguous
    p.taps = 1;
    p.depth = window_floats(d);
  }
  return p;
}

}  // namespace

void reserve_im2col(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  scratch.take<float>(checked_mul(d.pixels(), window_floats(d)));
  RowsGemmParts(window_gemm(d, args), scratch);
}

void run_im2col(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  const int64_t columns = window_floats(d), work = d.pixels() * columns;
  float* matrix = scratch.take<float>(work);
  parallel_for(d.pixels(), threads_for(work, args.threads), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t pixel = begin; pixel < end; ++pixel) unroll_window(d, args.src.data, pixel, matrix + pixel * columns);
  });
  const RowsGemm p = window_gemm(d, args);
  rows_gemm(p, scratch, [&](int64_t first, int64_t count, const float** rows) noexcept {
    for (int64_t tap = 0; tap < p.taps; ++tap)
      for (int64_t i = 0; i < count; ++i) rows[tap * count + i] = matrix + (first + i) * columns + tap * d.c;
  });
}

}  // namespace convlane
