// Copies between layouts: runs of floats or transposes where the memory layout allows it, else element by element.
#include "kernels/table.h"
#include "ops/parallel.h"
#include "ops/view.h"

namespace convlane {
namespace {

void copy_runs(const float* src, int64_t src_stride, float* dst, int64_t dst_stride, int64_t runs, int64_t length) {
  if (src_stride == length && dst_stride == length) {
    std::copy_n(src, runs * length, dst);
    return;
  }
  for (int64_t i = 0; i < runs; ++i) std::copy_n(src + i * src_stride, length, dst + i * dst_stride);
}

// A matrix of pixels by channels, between any two layouts.
struct PixelStrides {
  int64_t pixel, channel;
};

void copy_pixels(const KernelTable& kernels, const float* src, PixelStrides from, float* dst, PixelStrides to,
                 int64_t pixels, int64_t channels) noexcept {
  if (from.pixel == 1 && to.pixel == 1) {
    copy_runs(src, from.channel, dst, to.channel, channels, pixels);
  } else if (from.channel == 1 && to.channel == 1) {
    copy_runs(src, from.pixel, dst, to.pixel, pixels, channels);
  } else if (from.pixel == 1 && to.channel == 1) {
    kernels.transpose(src, from.channel, dst, to.pixel, channels, pixels);
  } else if (from.channel == 1 && to.pixel == 1) {
    kernels.transpose(src, from.pixel, dst, to.channel, pixels, channels);
  } else {
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t c = 0; c < channels; ++c)
        dst[p * to.pixel + c * to.channel] = src[p * from.pixel + c * from.channel];
  }
}

}  // namespace

std::string to_string(const int64_t* sizes, int count) {
  std::string text = "(";
  for (int i = 0; i < count; ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + (count == 1 ? ",)" : ")");
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

void copy_image(const ImageView& src, float* dst, const Shape4& strides) {
  if (src.count() == 0) return;
  const int64_t images = src.shape[0], channels = src.shape[1];
  int64_t rows = src.shape[2], pixels = src.shape[3];
  PixelStrides from{src.strides[3], src.strides[1]}, to{strides[3], strides[1]};
  if (pixels == 1) {
    from.pixel = src.strides[2];
    to.pixel = strides[2];
  }
  if (pixels == 1 || (src.strides[2] == pixels * from.pixel && strides[2] == pixels * to.pixel)) {
    pixels *= rows;  // a single stride goes through the whole image in both arrays
    rows = 1;
  }
  constexpr int64_t kBlock = 256;  // pixels
  const int64_t blocks = ceil_div(pixels, kBlock);
  const KernelTable& kernels = active_table();
  parallel_for(images * rows * blocks, threads_for(src.count()), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * kBlock, row = task / blocks % rows, image = task / blocks / rows;
      copy_pixels(kernels, src.data + image * src.strides[0] + row * src.strides[2] + first * from.pixel, from,
                  dst + image * strides[0] + row * strides[2] + first * to.pixel, to, std::min(kBlock, pixels - first),
                  channels);
    }
  });
}

void copy_to_channels_last(const ImageView& src, float* dst) {
  copy_image(src, dst, channels_last_view(dst, src.shape).strides);
}

void copy_to_nchw(const ImageView& src, float* dst) {
  const int64_t c = src.shape[1], h = src.shape[2], w = src.shape[3];
  copy_image(src, dst, {c * h * w, h * w, w, 1});
}

const float* channels_last_or_into(const ImageView& src, float* dst) {
  if (src.is_channels_last()) return src.data;
  copy_to_channels_last(src, dst);
  return dst;
}

}  // namespace convlane
