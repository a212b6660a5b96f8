// What this machine can reach, measured: the yardstick of the benchmarks.
#pragma once

#include <cstdint>

namespace convlane {

// Floating-point operations per second (a multiply-add counts two) of the active instruction set, best of repeats.
double measure_fma_peak(int threads);

// Bytes read per second from a buffer of `bytes`, read repeatedly; its size determines which cache level is measured.
double measure_read_bandwidth(std::int64_t bytes, int threads);

}  // namespace convlane
