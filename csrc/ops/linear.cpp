#include "ops/linear.h"

#include <algorithm>

#include "ops/rows_gemm.h"

namespace convlane {
namespace {

// A product whose right matrix is packed block by block, into memory that stays in a cache until it has been used.
struct BlockGemm {
  const float* src;  // (m, depth)
  int64_t src_stride;
  int64_t m, n, depth;
  int64_t block_depth, block_columns;  // of the right matrix; columns are whole panels
  Epilogue epilogue;                   // no residual
  float* dst;                          // (m, n), dense
};

// pack(first_k, count, first, columns, width, to) writes columns of the right matrix as one panel, [k][width];
// noexcept.
template <class Pack>
void block_gemm(const BlockGemm& p, const Pack& pack) {
  const KernelTable& kernels = active_table();
  const int64_t block_rows = 16 * kernels.gemm.mr, row_parts = ceil_div(p.m, block_rows);
  const int64_t column_parts = ceil_div(p.n, p.block_columns);
  const int threads = threads_for(p.m * p.n * p.depth);
  const bool is_long = p.depth > kernels.gemm.long_sum;  // then the blocks are those of the sums, too
  const int64_t block_depth = is_long ? kernels.gemm.sum_block : p.block_depth, floats = block_depth * p.block_columns;
  const auto packed = allocate_aligned<float>(checked_mul(threads, floats));
  const auto pointers = allocate_aligned<const float*>(checked_mul(threads, block_rows));
  parallel_for(row_parts * column_parts, threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task % row_parts * block_rows, column = task / row_parts * p.block_columns;
      GemmArgs g{};
      const float** rows = pointers.get() + thread * block_rows;
      g.rows = rows;
      g.rows_stride = g.m = std::min(block_rows, p.m - row);
      for (int64_t i = 0; i < g.m; ++i) rows[i] = p.src + (row + i) * p.src_stride;
      g.n = std::min(p.block_columns, p.n - column);
      g.taps = 1;
      g.dst = p.dst + row * p.n + column;
      g.dst_stride = p.n;
      if (p.epilogue.bias != nullptr) g.epilogue.bias = p.epilogue.bias + column;
      g.weight = packed.get() + thread * floats;
      for (int64_t k = 0; k < p.depth; k += block_depth) {
        g.depth = std::min(block_depth, p.depth - k);
        float* to = packed.get() + thread * floats;
        for (int64_t j = 0; j < g.n; j += kernels.gemm.nr) {
          const int64_t columns = std::min<int64_t>(kernels.gemm.nr, g.n - j);
          const int64_t width = kernels.gemm.panel_width(columns);
          pack(k, g.depth, column + j, columns, width, to);
          to += g.depth * width;
        }
        g.weight_end = to;
        g.row_offset = k;
        g.accumulate = k != 0 && !is_long;
        if (k != 0 && is_long) {
          g.epilogue.bias = nullptr;
          g.epilogue.residual = g.dst;
          g.epilogue.residual_stride = g.dst_stride;
        }
        if (k + g.depth == p.depth) {
          g.epilogue.activation = p.epilogue.activation;
          g.epilogue.slope = p.epilogue.slope;
        }
        kernels.gemm.run(g);
      }
    }
  });
}

void fill_beyond(float* row, int64_t columns, int64_t width) { std::fill(row + columns, row + width, 0.0f); }

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
  if (args.rows != 0) RowsGemmParts(linear_gemm(args), false, scratch);
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
  const BlockGemm p{src, src_stride, rows, o, i, std::min<int64_t>(i, 256), kernels.gemm.nr, epilogue, dst};
  block_gemm(p,
             [&, in = i](int64_t k, int64_t count, int64_t first, int64_t columns, int64_t width, float* to) noexcept {
               kernels.transpose(weight + first * in + k, in, to, width, columns, count);
               for (int64_t row = 0; columns < width && row < count; ++row)
                 fill_beyond(to + row * width, columns, width);
             });
}

void run_linear_input_gradient(const float* gradient, int64_t rows, int64_t gradient_stride, const float* weight,
                               const Pair& shape, float* dst) {
  const auto [o, i] = shape;
  const KernelTable& kernels = active_table();
  const BlockGemm p{gradient, gradient_stride, rows, i, o, std::min<int64_t>(o, 64), 16 * kernels.gemm.nr, {}, dst};
  block_gemm(p,
             [&, in = i](int64_t k, int64_t count, int64_t first, int64_t columns, int64_t width, float* to) noexcept {
               for (int64_t row = 0; row < count; ++row, to += width) {
                 std::copy_n(weight + (k + row) * in + first, columns, to);
                 fill_beyond(to, columns, width);
               }
             });
}

}  // namespace convlane
