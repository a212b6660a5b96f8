// Conversions between layouts: whole-image transposes where the memory allows it, element by element elsewhere.
#include "kernels/table.h"
#include "ops/parallel.h"
#include "ops/view.h"

namespace convlane {
namespace {

// Dense in H and W with unit stride along W: one plane is a row of the channel-by-pixel matrix.
bool has_dense_planes(const ImageView& v) {
  return (v.shape[3] == 1 || v.strides[3] == 1) && (v.shape[2] == 1 || v.strides[2] == v.shape[3]);
}

// Dense pixels: channels have unit stride and pixels follow each other.
bool has_dense_pixels(const ImageView& v) {
  const int64_t pixel = v.strides[3];
  return (v.shape[1] == 1 || v.strides[1] == 1) && (v.shape[2] == 1 || v.strides[2] == pixel * v.shape[3]);
}

// Splits the columns of one transpose per image over the threads.
template <class Transpose>
void for_column_blocks(int64_t images, int64_t columns, int64_t work, const Transpose& transpose) {
  constexpr int64_t kBlock = 256;
  const int64_t blocks = ceil_div(columns, kBlock);
  parallel_for(images * blocks, threads_for(work), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * kBlock;
      transpose(task / blocks, first, std::min(kBlock, columns - first));
    }
  });
}

}  // namespace

std::string to_string(const int64_t* sizes, int count) {
  std::string text = "(";
  for (int i = 0; i < count; ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + ")";
}

bool ImageView::is_channels_last() const {
  const ImageView dense = channels_last_view(data, shape);
  for (int d = 0; d < 4; ++d)
    if (shape[d] != 1 && strides[d] != dense.strides[d]) return false;
  return true;
}

ChannelsLast::ChannelsLast(const ImageView& src) : view_(src) {
  if (src.is_channels_last() || src.count() == 0) {
    view_ = channels_last_view(src.data, src.shape);
    return;
  }
  copy_ = allocate_aligned<float>(src.count());
  copy_to_channels_last(src, copy_.get());
  view_ = channels_last_view(copy_.get(), src.shape);
}

void copy_to_channels_last(const ImageView& src, float* dst) {
  const auto [n, c, h, w] = src.shape;
  const int64_t pixels = h * w;
  if (has_dense_planes(src) && c >= 4) {
    const auto transpose = active_table().transpose;
    for_column_blocks(n, pixels, src.count(), [&](int64_t image, int64_t first, int64_t count) noexcept {
      transpose(src.data + image * src.strides[0] + first, src.strides[1], dst + (image * pixels + first) * c, c, c,
                count);
    });
    return;
  }
  parallel_for(n * h, threads_for(src.count()), [&, c = c, h = h, w = w](int64_t begin, int64_t end, int) noexcept {
    for (int64_t row = begin; row < end; ++row) {
      const float* from = src.data + row / h * src.strides[0] + row % h * src.strides[2];
      float* to = dst + row * w * c;
      for (int64_t x = 0; x < w; ++x)
        for (int64_t i = 0; i < c; ++i) *to++ = from[x * src.strides[3] + i * src.strides[1]];
    }
  });
}

void copy_to_nchw(const ImageView& src, float* dst) {
  const auto [n, c, h, w] = src.shape;
  const int64_t pixels = h * w;
  if (has_dense_pixels(src) && c >= 4) {
    const auto transpose = active_table().transpose;
    for_column_blocks(n, c, src.count(), [&, c = c](int64_t image, int64_t first, int64_t count) noexcept {
      transpose(src.data + image * src.strides[0] + first, src.strides[3], dst + (image * c + first) * pixels, pixels,
                pixels, count);
    });
    return;
  }
  parallel_for(n * c, threads_for(src.count()), [&, c = c, h = h, w = w](int64_t begin, int64_t end, int) noexcept {
    for (int64_t plane = begin; plane < end; ++plane) {
      const float* from = src.data + plane / c * src.strides[0] + plane % c * src.strides[1];
      float* to = dst + plane * h * w;
      for (int64_t y = 0; y < h; ++y)
        for (int64_t x = 0; x < w; ++x) *to++ = from[y * src.strides[2] + x * src.strides[3]];
    }
  });
}

}  // namespace convlane
