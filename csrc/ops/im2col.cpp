// im2col and its adjoint, tap by tap.
#include "ops/im2col.h"

#include <cstring>
#include <stdexcept>

#include "ops/parallel.h"

namespace convlane {
namespace {

// Calls row(y, ih, columns, iw) for every output row y that tap (r, s) finds inside the image: input row ih, and the
// output columns whose input, iw at columns.begin, is inside.
template <class Row>
void for_rows_of_tap(const Im2colDesc& d, int64_t r, int64_t s, const Row& row) {
  const Window& w = d.window;
  const int64_t top = r * w.dilation[0] - w.top, left = s * w.dilation[1] - w.left;
  const Range rows = valid_outputs(top, w.stride[0], d.image[2], d.output[0]);
  const Range columns = valid_outputs(left, w.stride[1], d.image[3], d.output[1]);
  for (int64_t y = rows.begin; y < rows.end; ++y)
    row(y, y * w.stride[0] + top, columns, columns.begin * w.stride[1] + left);
}

}  // namespace

Im2colDesc describe_im2col(const char* op, const Shape4& image, const Window& window) {
  const Pair output = window_output(op, window, image[2], image[3]);
  const int64_t taps = checked_mul(window.kernel[0], window.kernel[1]);
  const Im2colDesc desc{image, window, output, checked_mul(image[1], taps), checked_mul(output[0], output[1])};
  // An empty batch must have strides, too.
  checked_mul(checked_mul(desc.rows, desc.columns), sizeof(float));
  return desc;
}

void im2col(const Im2colDesc& d, const ImageView& image, float* dst, int threads) {
  const auto [n, c, h, w] = d.image;
  ImageView src = image;
  AlignedArray<float> planes;
  if (w > 1 && src.strides[3] != 1) {  // each tap reads every plane once: worth making their rows dense
    planes = allocate_aligned<float>(src.count());
    copy_to_nchw(src, planes.get());
    src = {planes.get(), src.shape, {c * h * w, h * w, w, 1}};
  }
  const int64_t kh = d.window.kernel[0], kw = d.window.kernel[1], step = d.window.stride[1];
  const int most = threads_for(n * d.rows * d.columns, threads);
  parallel_for(n * d.rows, most, [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task % d.rows, channel = row / (kh * kw), r = row / kw % kh, s = row % kw;
      const float* plane = src.data + task / d.rows * src.strides[0] + channel * src.strides[1];
      float* to = dst + task * d.columns;
      std::memset(to, 0, sizeof(float) * d.columns);
      for_rows_of_tap(d, r, s, [&](int64_t y, int64_t ih, Range x, int64_t iw) {
        const float* from = plane + ih * src.strides[2] + iw;
        float* at = to + y * d.output[1];
        if (step == 1)
          std::memcpy(at + x.begin, from, sizeof(float) * (x.end - x.begin));
        else
          for (int64_t i = x.begin; i < x.end; ++i) at[i] = from[(i - x.begin) * step];
      });
    }
  });
}

void col2im(const Im2colDesc& d, const ImageView& src, float* planes, int threads) {
  const auto [n, c, h, w] = d.image;
  if (src.shape[0] != n || src.shape[1] != d.rows || src.shape[3] != d.columns)
    throw std::invalid_argument("col2im: output size " + to_string(Pair{h, w}) + " with kernel size " +
                                to_string(d.window.kernel) + " has " + to_string(d.output) + " = " +
                                std::to_string(d.columns) + " positions of " + std::to_string(d.rows) +
                                " rows, but input has " + std::to_string(src.shape[3]) + " columns of " +
                                std::to_string(src.shape[1]) + " rows");
  const int64_t pixels = h * w;
  if (n * c == 0) return;
  const int64_t kh = d.window.kernel[0], kw = d.window.kernel[1], step = d.window.stride[1];
  const int64_t column = src.strides[3];
  const int most = threads_for(n * d.rows * d.columns, threads);
  parallel_for(n * c, most, [&, c = c, w = w](int64_t begin, int64_t end, int) noexcept {
    for (int64_t task = begin; task < end; ++task) {
      float* plane = planes + task * pixels;
      std::memset(plane, 0, sizeof(float) * pixels);
      const float* first_row = src.data + task / c * src.strides[0] + task % c * kh * kw * src.strides[1];
      for (int64_t tap = 0; tap < kh * kw; ++tap) {
        const float* from = first_row + tap * src.strides[1];
        for_rows_of_tap(d, tap / kw, tap % kw, [&](int64_t y, int64_t ih, Range x, int64_t iw) {
          float* to = plane + ih * w + iw;
          const float* at = from + (y * d.output[1] + x.begin) * column;
          for (int64_t i = 0; i < x.end - x.begin; ++i) to[i * step] += at[i * column];
        });
      }
    }
  });
}

}  // namespace convlane
