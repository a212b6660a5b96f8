#include "ops/norm.h"

#include <cmath>

#include "kernels/table.h"
#include "ops/parallel.h"

namespace convlane {

template <class Real>
void run_batch_norm(const float* src, int64_t rows, int64_t channels, const Real* mean, const Real* variance,
                    const float* weight, const float* bias, double eps, float* dst) {
  const AlignedArray<float> vectors = allocate_aligned<float>(3 * channels);
  float *center = vectors.get(), *scale = center + channels, *shift = scale + channels;
  for (int64_t c = 0; c < channels; ++c) {
    const double factor = (weight ? weight[c] : 1.0) / std::sqrt(variance[c] + eps);
    center[c] = static_cast<float>(mean[c]);
    scale[c] = static_cast<float>(factor);
    shift[c] = static_cast<float>((bias ? bias[c] : 0.0) - (mean[c] - static_cast<double>(center[c])) * factor);
  }
  const NormalizeArgs args{channels, center, scale, shift};
  const auto normalize = active_table().normalize;
  parallel_for(rows, threads_for(rows * channels), [&](int64_t begin, int64_t end, int) noexcept {
    normalize(src + begin * channels, dst + begin * channels, end - begin, args);
  });
}

template void run_batch_norm(const float*, int64_t, int64_t, const float*, const float*, const float*, const float*,
                             double, float*);
template void run_batch_norm(const float*, int64_t, int64_t, const double*, const double*, const float*, const float*,
                             double, float*);

// Chunks of a fixed number of rows, merged in their order (Chan, Golub, LeVeque 1983): neither the threads nor the
// length of the array decide which values are summed together.
void run_moments(const float* src, int64_t rows, int64_t channels, double* mean, double* variance) {
  constexpr int64_t kChunk = 256;
  const int64_t chunks = ceil_div(rows, kChunk);
  const AlignedArray<double> parts = allocate_aligned<double>(chunks * channels * 2);
  const auto moments = active_table().moments;
  parallel_for(chunks, threads_for(2 * rows * channels), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kChunk;
      double* part = parts.get() + chunk * channels * 2;
      moments(src + first * channels, std::min(kChunk, rows - first), channels, part, part + channels);
    }
  });
  std::copy_n(parts.get(), channels, mean);
  std::copy_n(parts.get() + channels, channels, variance);
  for (int64_t chunk = 1; chunk < chunks; ++chunk) {
    const double before = static_cast<double>(chunk * kChunk);
    const double added = static_cast<double>(std::min(kChunk, rows - chunk * kChunk)), both = before + added;
    const double* part = parts.get() + chunk * channels * 2;
    for (int64_t c = 0; c < channels; ++c) {
      const double delta = part[c] - mean[c];
      mean[c] += delta * (added / both);
      variance[c] += part[channels + c] + delta * delta * (before * added / both);
    }
  }
  for (int64_t c = 0; c < channels; ++c) variance[c] /= static_cast<double>(rows);
}

void run_local_response(const float* src, int64_t rows, int64_t channels, int64_t size, float alpha, float beta,
                        float k, float* dst) {
  if (size < 1)
    throw std::invalid_argument("local_response_norm: size must be at least 1, got " + std::to_string(size));
  const KernelTable& kernels = active_table();
  LocalResponseArgs args{};
  args.channels = channels;
  args.before = std::min(size / 2, channels);
  args.after = std::min((size - 1) / 2, channels);
  args.alpha = alpha / static_cast<float>(size);
  args.beta = beta;
  args.k = k;
  const int threads = threads_for(rows * channels * (args.before + args.after + 8));
  const int64_t scratch_size = round_up(args.before + channels + args.after + kernels.lanes, 16);
  const AlignedArray<float> scratch = allocate_aligned<float>(threads * scratch_size);
  parallel_for(rows, threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    LocalResponseArgs own = args;
    own.scratch = scratch.get() + thread * scratch_size;
    kernels.local_response(src + begin * channels, dst + begin * channels, end - begin, own);
  });
}

}  // namespace convlane
