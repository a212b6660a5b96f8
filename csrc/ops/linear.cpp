// The fully connected layer by the drivers of the matrix kernel.
#include "ops/linear.h"

#include <algorithm>

#include "ops/block_gemm.h"
#include "ops/rows_gemm.h"

namespace convlane {
namespace {

// Rows of the one left matrix.
auto rows_from(const float* src, int64_t stride) {
  return [=](int64_t, int64_t first, int64_t count, const float** pointers) noexcept {
    for (int64_t i = 0; i < count; ++i) pointers[i] = src + (first + i) * stride;
  };
}

RowsGemm linear_gemm(const LinearArgs& args) {
  RowsGemm p{};
  p.kernels = &args.weight->kernels();
  p.m = args.rows;
  p.taps = 1;
  p.depth = args.weight->shape()[1];
  p.groups = 1;
  p.n = args.weight->shape()[0];
  p.weight = args.weight->data();
  p.weight_end = args.weight->end();
  p.dst = args.dst;
  p.dst_stride = p.n;
  p.epilogue = args.epilogue;
  p.threads = args.threads;
  return p;
}

}  // namespace

void reserve_linear(const LinearArgs& args, Scratch& scratch) {
  if (args.rows != 0) RowsGemmParts(linear_gemm(args), scratch);
}

void run_linear(const LinearArgs& args, Scratch& scratch) {
  if (args.rows == 0) return;
  rows_gemm(linear_gemm(args), scratch, [&](int64_t first, int64_t count, const float** pointers) noexcept {
    for (int64_t i = 0; i < count; ++i) pointers[i] = args.src + (first + i) * args.src_stride;
  });
}

void run_linear_unpacked(const float* src, int64_t rows, int64_t src_stride, const float* weight, const Pair& shape,
                         const Epilogue& epilogue, float* dst) {
  const auto [o, i] = shape;
  const KernelTable& kernels = active_table();
  const BlockGemm p{&kernels, num_threads(), 1, rows, o, i, std::min<int64_t>(i, 256), kernels.gemm.nr, epilogue, o};
  with_scratch([&](Scratch& scratch) { BlockGemmMemory(p, scratch); },
               [&, in = i](Scratch& scratch) {
                 block_gemm(
                     p, scratch, rows_from(src, src_stride),
                     [=](int64_t, int64_t k, int64_t count, int64_t first, int64_t columns, int64_t width,
                         float* to) noexcept { pack_columns(weight + first * in + k, in, count, columns, width, to); },
                     [=](int64_t) noexcept { return dst; });
               });
}

void run_linear_input_gradient(const float* gradient, int64_t rows, int64_t gradient_stride, const float* weight,
                               const Pair& shape, float* dst) {
  const auto [o, i] = shape;
  const KernelTable& kernels = active_table();
  const BlockGemm p{&kernels, num_threads(), 1, rows, i, o, std::min<int64_t>(o, 64), 16 * kernels.gemm.nr, {}, i};
  with_scratch([&](Scratch& scratch) { BlockGemmMemory(p, scratch); },
               [&, in = i](Scratch& scratch) {
                 block_gemm(
                     p, scratch, rows_from(gradient, gradient_stride),
                     [=](int64_t, int64_t k, int64_t count, int64_t first, int64_t columns, int64_t width,
                         float* to) noexcept { pack_rows(weight + k * in + first, in, count, columns, width, to); },
                     [=](int64_t) noexcept { return dst; });
               });
}

}  // namespace convlane
