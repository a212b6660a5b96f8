// What this machine reaches at best, measured: the yardstick of the benchmarks.
#pragma once

#include <cstdint>

namespace convlane {

// Floating-point operations per second (a multiply-add counts two) of the active instruction set, best of repeats.
double measure_fma_peak(int threads);

// Bytes read per second from a buffer of `bytes`, read again and again; choose the size by the cache level meant.
double measure_read_bandwidth(std::int64_t bytes, int threads);

}  // namespace convlane
