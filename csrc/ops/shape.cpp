#include "ops/shape.h"

#include "kernels/table.h"
#include "ops/parallel.h"

namespace convlane {

void run_cat(const std::vector<ImageView>& images, int64_t dim, const Shape4& shape, float* dst) {
  if (dim < 0 || dim > 3) throw std::invalid_argument("cat: dim is out of range");
  const Shape4 strides = channels_last_view(dst, shape).strides;
  int64_t at = 0;
  for (const ImageView& image : images) {
    Shape4 expected = shape;
    expected[dim] = image.shape[dim];
    if (image.shape != expected || image.shape[dim] > shape[dim] - at)
      throw std::invalid_argument("cat: " + to_string(image.shape) + " does not fit into " + to_string(shape));
    copy_image(image, dst + at * strides[dim], strides);
    at += image.shape[dim];
  }
  if (at != shape[dim]) throw std::invalid_argument("cat: the arrays do not fill " + to_string(shape));
}

bool has_one_stride(const ImageView& image) {
  const auto [n, c, h, w] = image.shape;
  const int64_t pixel = image.strides[3];
  return (c == 1 || image.strides[1] == 1) && (h == 1 || image.strides[2] == w * pixel) &&
         (n == 1 || image.strides[0] == h * w * pixel);
}

void run_interleave(const ImageView* images, int64_t count, float* dst) {
  if (count == 0 || images[0].count() == 0) return;
  const int64_t channels = images[0].shape[1];
  const KernelTable& kernels = active_table();
  parallel_for(images[0].pixels(), threads_for(count * images[0].count()),
               [&](int64_t begin, int64_t end, int) noexcept {
                 float* to = dst + begin * count * channels;
                 if (count == 2) {
                   const ImageView &a = images[0], &b = images[1];
                   return kernels.interleave(a.data + begin * a.strides[3], a.strides[3], b.data + begin * b.strides[3],
                                             b.strides[3], to, end - begin, channels);
                 }
                 for (int64_t pixel = begin; pixel < end; ++pixel, to += count * channels)
                   for (int64_t i = 0; i < count; ++i)
                     for (int64_t c = 0; c < channels; ++c)
                       to[c * count + i] = images[i].data[pixel * images[i].strides[3] + c];
               });
}

void check_shuffle(const Shuffle& shuffle) {
  const auto [n, c, h, w] = shuffle.many;
  const int64_t factor = shuffle.factor;
  if (factor < 1 || c % checked_mul(factor, factor) != 0)
    throw std::invalid_argument("pixel_shuffle: the factor " + std::to_string(factor) + " squared does not divide " +
                                std::to_string(c) + " channels");
  checked_mul(checked_mul(n, h), checked_mul(checked_mul(w, std::max<int64_t>(c, 1)), factor));
}

int64_t shuffle_scratch(const Shuffle& shuffle, int threads) { return checked_mul(shuffle.many[1], threads); }

// In scratch the channels of a pixel are reordered: those that stay together are adjacent.
void run_pixel_shuffle(const Shuffle& shuffle, const float* many, float* few, float* scratch, int threads) {
  const int64_t channels = shuffle.many[1], width = shuffle.many[3], rows = shuffle.many[0] * shuffle.many[2];
  const int64_t factor = shuffle.factor, squares = factor * factor, kept = channels / squares;
  const int64_t run = factor * kept, out_row = width * run;
  const auto transpose = active_table().transpose;
  parallel_for(rows, threads_for(rows * width * channels, threads), [=](int64_t begin, int64_t end, int part) noexcept {
    float* sorted = scratch + part * channels;
    for (int64_t pixel = begin * width; pixel < end * width; ++pixel) {
      transpose(many + pixel * channels, squares, sorted, kept, kept, squares);
      float* to = few + pixel / width * factor * out_row + pixel % width * run;
      for (int64_t i = 0; i < factor; ++i) std::copy_n(sorted + i * run, run, to + i * out_row);
    }
  });
}

void run_pixel_unshuffle(const Shuffle& shuffle, const float* few, float* many, float* scratch, int threads) {
  const int64_t channels = shuffle.many[1], width = shuffle.many[3], rows = shuffle.many[0] * shuffle.many[2];
  const int64_t factor = shuffle.factor, squares = factor * factor, kept = channels / squares;
  const int64_t run = factor * kept, in_row = width * run;
  const auto transpose = active_table().transpose;
  parallel_for(rows, threads_for(rows * width * channels, threads), [=](int64_t begin, int64_t end, int part) noexcept {
    float* sorted = scratch + part * channels;
    for (int64_t pixel = begin * width; pixel < end * width; ++pixel) {
      const float* from = few + pixel / width * factor * in_row + pixel % width * run;
      for (int64_t i = 0; i < factor; ++i) std::copy_n(from + i * in_row, run, sorted + i * run);
      transpose(sorted, kept, many + pixel * channels, squares, squares, kept);
    }
  });
}

}  // namespace convlane
