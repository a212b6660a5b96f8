// Direct convolution as an implicit matrix product: no im2col buffer, only pointers to the input pixel of every tap
// and output pixel (M. Dukhan, "The Indirect Convolution Algorithm", arXiv 1907.02129). Taps that fall into the
// padding point at a row of zeros, and are left out where all pixels of a register tile meet them there. With a 1x1
// kernel this is pointwise convolution.
#include <cstring>

#include "ops/conv2d.h"
#include "ops/rows_gemm.h"

namespace convlane {

void fill_tap_rows(const Conv2dDesc& d, const float* row, const float* zeros, int64_t first, int64_t run, int64_t count,
                   const float** rows) {
  const Window& w = d.window;
  const int64_t step = w.stride[1] * d.c;
  for (int64_t s = 0; s < d.kw(); ++s, rows += count) {
    const int64_t offset = s * w.dilation[1] - w.left;
    Range valid = valid_outputs(offset, w.stride[1], d.w, d.ow);
    if (row == nullptr) valid = {d.ow, d.ow};
    const int64_t begin = std::clamp<int64_t>(valid.begin - first, 0, run),
                  end = std::clamp(valid.end - first, begin, run);
    for (int64_t i = 0; i < begin; ++i) rows[i] = zeros;
    const int64_t from = (first * w.stride[1] + offset) * d.c;
    for (int64_t i = begin; i < end; ++i) rows[i] = row + from + i * step;
    for (int64_t i = end; i < run; ++i) rows[i] = zeros;
  }
}

void fill_pixel_rows(const Conv2dDesc& d, const float* src, const float* zeros, int64_t first, int64_t count,
                     const float** rows) {
  const Window& w = d.window;
  for (int64_t done = 0; done < count;) {
    const int64_t pixel = first + done, ow = pixel % d.ow, oh = pixel / d.ow % d.oh, image = pixel / (d.ow * d.oh);
    const int64_t run = std::min(count - done, d.ow - ow);
    for (int64_t r = 0; r < d.kh(); ++r) {
      const int64_t ih = oh * w.stride[0] - w.top + r * w.dilation[0];
      const float* row = ih < 0 || ih >= d.h ? nullptr : src + (image * d.h + ih) * d.w * d.c;
      fill_tap_rows(d, row, zeros, ow, run, count, rows + r * d.kw() * count + done);
    }
    done += run;
  }
}

void reserve_direct(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  scratch.take<float>(d.c);
  RowsGemmParts(conv2d_gemm(d, args), scratch);
}

void run_direct(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  float* zeros = scratch.take<float>(d.c);
  std::memset(zeros, 0, sizeof(float) * d.c);
  RowsGemm p = conv2d_gemm(d, args);
  p.zeros = zeros;
  rows_gemm(p, scratch, [&](int64_t first, int64_t count, const float** rows) noexcept {
    fill_pixel_rows(d, args.src.data, zeros, first, count, rows);
  });
}

}  // namespace convlane
