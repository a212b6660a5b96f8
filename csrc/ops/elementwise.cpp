#include "ops/elementwise.h"

#include "ops/parallel.h"

namespace convlane {

void run_add(const float* a, const float* b, float* dst, int64_t count, Activation activation, float slope) {
  constexpr int64_t kBlock = 4096;  // floats: an activation that takes a second pass finds them in the cache
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
  const auto scale = active_table().scale;
  parallel_for(rows, threads_for(src.count()), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t row = begin; row < end; ++row)
      scale(src.data + row * width * channels, factor + row / src.shape[2] * factor_stride,
            dst + row * width * channels, width, channels);
  });
}

void run_softmax(const float* src, float* dst, int64_t rows, int64_t channels, bool log) {
  constexpr int64_t kWorkPerFloat = 16;  // an exponential is about as many multiply-adds
  const auto softmax = active_table().softmax;
  parallel_for(rows, threads_for(rows * channels * kWorkPerFloat), [&](int64_t begin, int64_t end, int) noexcept {
    softmax(src + begin * channels, dst + begin * channels, end - begin, channels, log);
  });
}

}  // namespace convlane
