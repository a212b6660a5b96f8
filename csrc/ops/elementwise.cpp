#include "ops/elementwise.h"

#include "ops/parallel.h"

namespace convlane {

void run_add(const float* a, const float* b, float* dst, int64_t count, Activation activation, float slope) {
  constexpr int64_t kBlock = 4096;  // floats: an activation's second pass finds them in the cache
  const auto add = active_table().add;
  parallel_for(ceil_div(count, kBlock), threads_for(count), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t first = begin * kBlock; first < end * kBlock; first += kBlock)
      add(a + first, b + first, dst + first, std::min(kBlock, count - first), activation, slope);
  });
}

void run_multiply(const float* a, const float* b, float* dst, int64_t count) {
  const auto multiply = active_table().multiply;
  parallel_for(count, threads_for(count), [&](int64_t begin, int64_t end, int) noexcept {
    multiply(a + begin, b + begin, dst + begin, end - begin);
  });
}

void run_scale(const ImageView& src, const float* factor, int64_t factor_stride, float* dst) {
  const int64_t channels = src.shape[1], rows = src.shape[0] * src.shape[2], width = src.shape[3];
  if (src.count() == 0) return;
  const float* from = channels_last_or_into(src, dst);
  const auto scale = active_table().scale;
  parallel_for(rows, threads_for(src.count()), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t row = begin; row < end; ++row)
      scale(from + row * width * channels, factor + row / src.shape[2] * factor_stride, dst + row * width * channels,
            width, channels);
  });
}

void run_softmax(const float* src, float* dst, int64_t rows, int64_t channels, bool log) {
  constexpr int64_t kWorkPerFloat = 16;  // an exponential is about as many multiply-adds
  const auto softmax = active_table().softmax;
  parallel_for(rows, threads_for(rows * channels * kWorkPerFloat), [&](int64_t begin, int64_t end, int) noexcept {
    softmax(src + begin * channels, dst + begin * channels, end - begin, channels, log);
  });
}

void run_softmax_gradient(const float* output, const float* gradient, float* dst, int64_t rows, int64_t channels,
                          bool log) {
  const auto run = active_table().softmax_gradient;
  parallel_for(rows, threads_for(rows * channels), [&](int64_t begin, int64_t end, int) noexcept {
    run(output + begin * channels, gradient + begin * channels, dst + begin * channels, end - begin, channels, log);
  });
}

// A chunk of pixels is summed in float; the chunks' sums are added in double, in order.
void run_scale_gradient(const ImageView& src, const float* gradient, bool shared, float* dst) {
  constexpr int64_t kChunk = 256, kBlock = 64;  // pixels, channels
  const int64_t channels = src.shape[1], sums = shared ? 1 : src.shape[0];
  const int64_t pixels = sums == 0 ? 0 : src.pixels() / sums, blocks = ceil_div(channels, kBlock);
  const auto dot = active_table().dot_channels;
  parallel_for(sums * blocks, threads_for(2 * src.count()), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * kBlock, count = std::min(kBlock, channels - first);
      const int64_t image = task / blocks;
      double total[kBlock] = {};
      for (int64_t pixel = 0; pixel < pixels; pixel += kChunk) {
        const int64_t at = (image * pixels + pixel) * channels + first;
        float part[kBlock] = {};
        dot(src.data + at, gradient + at, std::min(kChunk, pixels - pixel), channels, count, part);
        for (int64_t c = 0; c < count; ++c) total[c] += static_cast<double>(part[c]);
      }
      for (int64_t c = 0; c < count; ++c) dst[image * channels + first + c] = static_cast<float>(total[c]);
    }
  });
}

}  // namespace convlane
