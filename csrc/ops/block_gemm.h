// Matrix products that pack their right matrices block by block, into memory that stays in a cache until it is used.
// For matrices that change from one call to the next.
#pragma once

#include <algorithm>

#include "kernels/table.h"
#include "ops/parallel.h"
#include "runtime/buffer.h"

namespace convlane {

// Several products of one shape, (m, depth) by (depth, n).
struct BlockGemm {
  const KernelTable* kernels;
  int most_threads;
  int64_t products, m, n, depth;
  int64_t block_depth, block_columns;  // of the right matrix; columns are whole panels
  Epilogue epilogue;                   // no residual
  int64_t dst_stride;

  // Long sums are sums of blocks, which here are the blocks of the right matrix.
  bool is_long() const { return depth > kernels->gemm.long_sum; }
  int64_t depth_of_block() const { return is_long() ? kernels->gemm.sum_block : block_depth; }
  int64_t rows_of_block() const { return 16 * kernels->gemm.mr; }
  int threads() const { return threads_for(products * m * n * depth, most_threads); }
  int64_t column_parts() const { return ceil_div(n, block_columns); }
  // Rows of a task. Every task packs its columns of the right matrix itself, so there are only as many tasks as keep
  // the threads busy.
  int64_t rows_of_task() const {
    constexpr int64_t kTasksPerThread = 4;
    const int64_t blocks = std::max<int64_t>(1, ceil_div(m, rows_of_block()));
    const int64_t others = std::max<int64_t>(1, products * column_parts());
    const int64_t wanted = threads() == 1 ? 1 : ceil_div(kTasksPerThread * threads(), others);
    return ceil_div(blocks, std::min(blocks, wanted)) * rows_of_block();
  }
};

struct BlockGemmMemory {
  float* packed;
  const float** pointers;
  BlockGemmMemory(const BlockGemm& p, Scratch& scratch)
      : packed(scratch.take<float>(checked_mul(p.threads(), p.depth_of_block() * p.block_columns))),
        pointers(scratch.take<const float*>(checked_mul(p.threads(), p.rows_of_block()))) {}
};

// Packs columns of a right matrix whose rows are dense as one panel [count][width], padded with zeros.
inline void pack_rows(const float* src, int64_t stride, int64_t count, int64_t columns, int64_t width,
                      float* to) noexcept {
  for (int64_t row = 0; row < count; ++row, to += width) {
    std::copy_n(src + row * stride, columns, to);
    std::fill(to + columns, to + width, 0.0f);
  }
}

// The same for a matrix whose columns are dense, `stride` apart.
inline void pack_columns(const float* src, int64_t stride, int64_t count, int64_t columns, int64_t width,
                         float* to) noexcept {
  active_table().transpose(src, stride, to, width, columns, count);
  for (int64_t row = 0; columns < width && row < count; ++row)
    std::fill(to + row * width + columns, to + (row + 1) * width, 0.0f);
}

// rows(product, first, count, pointers) sets the pointers to rows of the left matrix; pack(product, first_k, count,
// first, columns, width, to) writes a panel of the right one; dst(product) points to the result. All noexcept.
template <class Rows, class Pack, class Dst>
void block_gemm(const BlockGemm& p, Scratch& scratch, const Rows& fill_rows, const Pack& pack, const Dst& dst) {
  const BlockGemmMemory memory(p, scratch);
  const KernelTable& kernels = *p.kernels;
  const int64_t block_rows = p.rows_of_block(), task_rows = p.rows_of_task(), row_parts = ceil_div(p.m, task_rows);
  const int64_t column_parts = p.column_parts(), block_depth = p.depth_of_block();
  const int64_t floats = block_depth * p.block_columns;
  const bool is_long = p.is_long();
  parallel_for(p.products * row_parts * column_parts, p.threads(),
               [&](int64_t begin, int64_t end, int thread) noexcept {
                 const float** rows = memory.pointers + thread * block_rows;
                 float* packed = memory.packed + thread * floats;
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t first_row = task % row_parts * task_rows;
                   const int64_t end_row = std::min(p.m, first_row + task_rows);
                   const int64_t column = task / row_parts % column_parts * p.block_columns;
                   const int64_t product = task / row_parts / column_parts;
                   GemmArgs g{};
                   g.rows = rows;
                   g.n = std::min(p.block_columns, p.n - column);
                   g.taps = 1;
                   g.dst_stride = p.dst_stride;
                   g.weight = packed;
                   for (int64_t k = 0; k < p.depth; k += block_depth) {
                     g.depth = std::min(block_depth, p.depth - k);
                     float* to = packed;
                     for (int64_t j = 0; j < g.n; j += kernels.gemm.nr) {
                       const int64_t columns = std::min<int64_t>(kernels.gemm.nr, g.n - j);
                       const int64_t width = kernels.gemm.panel_width(columns);
                       pack(product, k, g.depth, column + j, columns, width, to);
                       to += g.depth * width;
                     }
                     g.weight_end = to;
                     g.row_offset = k;
                     g.accumulate = k != 0 && !is_long;
                     if (k == 0 && p.epilogue.bias != nullptr) g.epilogue.bias = p.epilogue.bias + column;
                     if (k != 0 && is_long) g.epilogue.bias = nullptr;
                     if (k + g.depth == p.depth) {
                       g.epilogue.activation = p.epilogue.activation;
                       g.epilogue.slope = p.epilogue.slope;
                     }
                     for (int64_t row = first_row; row < end_row; row += block_rows) {
                       g.rows_stride = g.m = std::min(block_rows, end_row - row);
                       fill_rows(product, row, g.m, rows);
                       g.dst = dst(product) + row * p.dst_stride + column;
                       if (k != 0 && is_long) {
                         g.epilogue.residual = g.dst;
                         g.epilogue.residual_stride = g.dst_stride;
                       }
                       kernels.gemm.run(g);
                     }
                   }
                 }
               });
}

}  // namespace convlane
