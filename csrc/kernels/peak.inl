// The machine's peak rates, as a yardstick for benchmarks: multiply-adds with everything in registers, and plain
// reading.
#pragma once

#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// Independent chains cover the latency (4 cycles x 2 units on current CPUs). The factors keep the sums bounded and are
// opaque to the compiler, so that nothing is folded away.
double fma_peak(int64_t iterations) {
  constexpr int kChains = kRegisters == 32 ? 24 : 12;
  Vec sum[kChains];
  Vec factor = broadcast(0.999f), addend = broadcast(0.001f);
  asm volatile("" : "+m"(factor), "+m"(addend));
  const Vec f = factor, a = addend;
  CONVLANE_UNROLL
  for (int i = 0; i < kChains; ++i) sum[i] = broadcast(static_cast<float>(i));
  for (int64_t n = 0; n < iterations; ++n) {
    CONVLANE_UNROLL
    for (int i = 0; i < kChains; ++i) sum[i] = fma(sum[i], f, a);
  }
  volatile float sink = 0;
  CONVLANE_UNROLL
  for (int i = 0; i < kChains; ++i) sink = sink + sum_lanes(sum[i]);
  return 2.0 * kChains * kLanes * static_cast<double>(iterations);
}

float read_all(const float* src, int64_t count) {
  constexpr int kStreams = 8;
  Vec sum[kStreams];
  CONVLANE_UNROLL
  for (int i = 0; i < kStreams; ++i) sum[i] = zero();
  for (int64_t at = 0; at + kStreams * kLanes <= count; at += kStreams * kLanes) {
    CONVLANE_UNROLL
    for (int i = 0; i < kStreams; ++i) sum[i] = add(sum[i], load(src + at + i * kLanes));
  }
  float total = 0;
  CONVLANE_UNROLL
  for (int i = 0; i < kStreams; ++i) total += sum_lanes(sum[i]);
  return total;
}

}  // namespace
}  // namespace convlane
