// Measurement of the machine's peak rates.
#include "ops/machine.h"

#include <chrono>
#include <cstring>

#include "kernels/table.h"
#include "ops/parallel.h"
#include "runtime/buffer.h"

namespace convlane {
namespace {

constexpr int kRepeats = 8;

template <class F>
double seconds(const F& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double measure_fma_peak(int threads) {
  constexpr int64_t kIterations = 200'000;
  const auto fma_peak = active_table().fma_peak;
  double best = 0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const double flops = fma_peak(1) * kIterations * threads;
    const double time = seconds([&] {
      parallel_for(
          threads, threads,
          [&](int64_t begin, int64_t end, int) noexcept {
            for (int64_t i = begin; i < end; ++i) fma_peak(kIterations);
          },
          kWhole);
    });
    best = std::max(best, flops / time);
  }
  return best;
}

double measure_read_bandwidth(std::int64_t bytes, int threads) {
  const int64_t count = bytes / static_cast<int64_t>(sizeof(float));
  const auto buffer = allocate_aligned<float>(count);
  std::memset(buffer.get(), 0, sizeof(float) * count);
  const int64_t passes = std::max<int64_t>(1, (int64_t{64} << 20) / std::max<int64_t>(bytes, 1));
  const auto read_all = active_table().read_all;
  double best = 0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const double time = seconds([&] {
      parallel_for(
          count, threads,
          [&](int64_t begin, int64_t end, int) noexcept {
            volatile float sink = 0;
            for (int64_t pass = 0; pass < passes; ++pass) sink = sink + read_all(buffer.get() + begin, end - begin);
          },
          kWhole);
    });
    best = std::max(best, static_cast<double>(sizeof(float) * count * passes) / time);
  }
  return best;
}

}  // namespace convlane
