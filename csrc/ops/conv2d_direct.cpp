// Direct convolution as an implicit matrix product: no im2col buffer, only pointers to the input pixel of every tap and
// output pixel (M. Dukhan, "The Indirect Convolution Algorithm", arXiv 1907.02129). Taps in the padding point at a row
// of zeros, and are skipped where all pixels of a register tile meet padding there. With a 1x1 kernel this is pointwise
// convolution.
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

namespace {

// The memory layout of the image that the taps point at.
struct DirectSource {
  Conv2dDesc seen;  // as the pointers see it: pixels may be further apart, a row of taps merged into one
  RowsGemm gemm;
  bool is_spread;  // the image is copied, its pixels an odd number of cache lines apart
  int64_t pixels;  // of the copy
  float* zeros;
  float* copy;

  DirectSource(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch)
      : seen(d), gemm(conv2d_gemm(d, args)), pixels(checked_mul(d.n, checked_mul(d.h, d.w))) {
    const Window& w = d.window;
    const int64_t floats = checked_mul(pixels, d.c + kSpreadFloats);
    // A copy that leaves the caches costs more than it saves.
    is_spread = d.taps() > 1 && d.groups == 1 && is_aliased(*gemm.kernels, d.c * w.stride[1]) &&
                floats <= third_level_floats(2) && gemm.m >= gemm.kernels->gemm.mr && d.o > gemm.kernels->gemm.nr;
    // Where no column of a window lies in the padding, a row of its taps is one run of numbers.
    const bool merges = !is_spread && d.groups == 1 && d.kw() > 1 && w.left == 0 && w.right == 0 && w.dilation[1] == 1;
    if (is_spread) seen.c += kSpreadFloats;
    if (merges) {
      seen.window.kernel[1] = 1;
      gemm.taps = d.kh();
      gemm.depth = checked_mul(d.kw(), d.c);
    }
    zeros = scratch.take<float>(std::max(d.c, gemm.depth));
    copy = scratch.take<float>(is_spread ? floats : 0);
    gemm.zeros = zeros;
  }
};

}  // namespace

void reserve_direct(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  RowsGemmParts(DirectSource(d, args, scratch).gemm, scratch);
}

void run_direct(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  const DirectSource source(d, args, scratch);
  std::memset(source.zeros, 0, sizeof(float) * std::max(d.c, source.gemm.depth));
  const float* src = args.src.data;
  if (source.is_spread) {
    const int threads = threads_for(source.gemm.m * d.o * d.taps() * d.c_per_group(), args.threads);
    parallel_for(source.pixels, threads, [&](int64_t begin, int64_t end, int) noexcept {
      for (int64_t pixel = begin; pixel < end; ++pixel)
        std::memcpy(source.copy + pixel * source.seen.c, src + pixel * d.c, sizeof(float) * d.c);
    });
    src = source.copy;
  }
  rows_gemm(source.gemm, scratch, [&](int64_t first, int64_t count, const float** rows) noexcept {
    fill_pixel_rows(source.seen, src, source.zeros, first, count, rows);
  });
}

}  // namespace convlane
