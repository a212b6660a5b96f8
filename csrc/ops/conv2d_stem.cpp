// The first layer of a network: few input channels (a picture has 3), a kernel of 3x3 to 11x11.
//
// With channels last, one row of the kernel meets KW * C contiguous floats of the input, so the product has KH taps
// of depth KW * C instead of KH * KW taps of depth C. For that to hold at the borders, the rows that a band of output
// rows needs are first copied into per-thread scratch with their padding. The copy reads any layout, so an NCHW
// picture needs no conversion of its own.
#include <cstring>

#include "ops/conv2d.h"
#include "ops/rows_gemm.h"

namespace convlane {
namespace {

struct Band {
  int64_t first_row, rows;  // rows of the padded image
  int64_t width;            // floats per row
};

// Planes to pixels. With the number of channels known the compiler makes shuffles of it.
template <int C>
void interleave(const float* src, int64_t plane, int64_t count, float* dst) {
  for (int64_t x = 0; x < count; ++x)
    for (int c = 0; c < C; ++c) dst[x * C + c] = src[c * plane + x];
}

void copy_band(const Conv2dDesc& d, const ImageView& src, int64_t image, const Band& band, float* dst) {
  const float* plane = src.data + image * src.strides[0];
  for (int64_t y = 0; y < band.rows; ++y, dst += band.width) {
    const int64_t ih = band.first_row + y - d.window.top;
    if (ih < 0 || ih >= d.h) {
      std::memset(dst, 0, sizeof(float) * band.width);
      continue;
    }
    float* to = dst + d.window.left * d.c;
    std::memset(dst, 0, sizeof(float) * d.window.left * d.c);
    std::memset(to + d.w * d.c, 0, sizeof(float) * d.window.right * d.c);
    const float* from = plane + ih * src.strides[2];
    if (src.strides[1] == 1 && src.strides[3] == d.c) {
      std::memcpy(to, from, sizeof(float) * d.w * d.c);
    } else if (d.c == 3 && src.strides[3] == 1) {
      interleave<3>(from, src.strides[1], d.w, to);
    } else {
      for (int64_t c = 0; c < d.c; ++c)
        for (int64_t x = 0; x < d.w; ++x) to[x * d.c + c] = from[x * src.strides[3] + c * src.strides[1]];
    }
  }
}

// Output rows per band: their input fits the first-level cache's big neighbour with room for the weights.
int64_t rows_per_band(const Conv2dDesc& d, int64_t width, int threads) {
  constexpr int64_t kBandFloats = 32 * 1024;
  const int64_t fit = (kBandFloats / width - d.kh()) / d.window.stride[0] + 1;
  const int64_t share = ceil_div(d.n * d.oh, threads);
  return std::clamp<int64_t>(std::min(fit, share), 1, std::min<int64_t>(d.oh, 16));
}

}  // namespace

std::string refuse_stem(const Conv2dDesc& d) {
  if (d.groups != 1) return "there is more than one group";
  if (d.c > 4) return "there are " + std::to_string(d.c) + " input channels, more than 4";
  if (d.kw() == 1) return "the kernel is one column wide: nothing to merge";
  if (d.window.dilation[1] != 1) return "the kernel is dilated, its rows are not contiguous";
  return "";
}

void run_stem(const Conv2dDesc& d, const Conv2dArgs& args) {
  const Window& w = d.window;
  const int64_t width = (d.w + w.left + w.right) * d.c;
  const int threads = threads_for(d.multiply_adds());
  const int64_t band_rows = rows_per_band(d, width, threads), bands = ceil_div(d.oh, band_rows);
  const int64_t reach = (d.kh() - 1) * w.dilation[0] + 1;
  const int64_t band_floats = ((band_rows - 1) * w.stride[0] + reach) * width;
  const auto scratch = allocate_aligned<float>(checked_mul(threads, round_up(band_floats, 16)));
  const auto pointers = allocate_aligned<const float*>(checked_mul(threads, band_rows * d.ow * d.kh()));

  parallel_for(d.n * bands, threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    float* band = scratch.get() + thread * round_up(band_floats, 16);
    const float** rows = pointers.get() + thread * band_rows * d.ow * d.kh();
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / bands, oh = task % bands * band_rows;
      const int64_t count = std::min(band_rows, d.oh - oh), pixel = (image * d.oh + oh) * d.ow;
      copy_band(d, args.src, image, {oh * w.stride[0], (count - 1) * w.stride[0] + reach, width}, band);
      for (int64_t r = 0; r < d.kh(); ++r)
        for (int64_t y = 0; y < count; ++y)
          for (int64_t x = 0; x < d.ow; ++x)
            rows[(r * count + y) * d.ow + x] =
                band + (y * w.stride[0] + r * w.dilation[0]) * width + x * w.stride[1] * d.c;
      GemmArgs g{};
      g.rows = rows;
      g.rows_stride = g.m = count * d.ow;
      g.n = d.o;
      g.taps = d.kh();
      g.depth = d.kw() * d.c;
      g.weight = args.weight->data();
      g.dst = args.dst + pixel * args.dst_stride;
      g.dst_stride = args.dst_stride;
      g.epilogue = args.epilogue;
      if (g.epilogue.residual != nullptr) g.epilogue.residual += pixel * g.epilogue.residual_stride;
      args.weight->kernels().gemm(g);
    }
  });
}

}  // namespace convlane
