#include "ops/linear.h"

#include "ops/rows_gemm.h"

namespace convlane {

void run_linear(const float* src, int64_t rows, int64_t src_stride, const PackedWeight& weight,
                const Epilogue& epilogue, float* dst) {
  RowsGemm p{};
  p.kernels = &weight.kernels();
  p.m = rows;
  p.taps = 1;
  p.depth = weight.shape()[1];
  p.groups = 1;
  p.n = weight.shape()[0];
  p.weight = weight.data();
  p.dst = dst;
  p.dst_stride = p.n;
  p.epilogue = epilogue;
  if (rows == 0) return;
  rows_gemm(p, [&](int64_t first, int64_t count, const float** pointers) noexcept {
    for (int64_t i = 0; i < count; ++i) pointers[i] = src + (first + i) * src_stride;
  });
}

}  // namespace convlane
