// Stacks of matrix products, merged and handed to the blocked matrix product; with few columns, to dot products.
#include "ops/matmul.h"

#include <stdexcept>

#include "ops/block_gemm.h"
#include "ops/pointwise.h"
#include "ops/strided.h"

namespace convlane {
namespace {

// The stacks as one list of products, and each as large as it can be: where the right matrix is shared by neighbours
// whose left rows are one stride apart, these are rows of one matrix.
struct Products {
  Loop<2> stack;  // strides of a and b
  BlockGemm gemm;
};

Products products_of(const MatmulArgs& args) {
  const Tensor &a = args.a, &b = args.b;
  const int row = a.rank - 2, column = a.rank - 1;
  Products p{};
  for (int d = 0; d < row; ++d)
    if (a.shape[d] != 1) p.stack.append(a.shape[d], {a.strides[d], b.strides[d]});
  p.stack.merge();
  int64_t m = a.shape[row];
  if (p.stack.rank > 0) {
    const int last = p.stack.rank - 1;
    if (p.stack.strides[last][1] == 0 && p.stack.strides[last][0] == m * a.strides[row]) {
      m *= p.stack.shape[last];
      --p.stack.rank;
    }
  }
  const int64_t n = b.shape[column], depth = a.shape[column];
  const int64_t nr = args.kernels->gemm.nr;
  p.gemm = {args.kernels,
            args.threads,
            p.stack.count(0, p.stack.rank),
            m,
            n,
            depth,
            std::min<int64_t>(std::max<int64_t>(depth, 1), 256),
            std::min(8 * nr, round_up(n, nr)),
            {},
            n};
  return p;
}

constexpr int64_t kFewColumns = 4;   // which the kernel dot_rows takes
constexpr int64_t kDotDepth = 4096;  // products that are added up by themselves, so that long sums stay exact

bool has_few_columns(const Products& p) { return p.gemm.n <= kFewColumns && p.gemm.depth > 0; }

// dst[j * depth + k] = src[k * row + j * column]
void pack(const float* src, int64_t row, int64_t column, int64_t depth, int64_t columns, float* dst) noexcept {
  for (int64_t j = 0; j < columns; ++j)
    for (int64_t k = 0; k < depth; ++k) dst[j * depth + k] = src[k * row + j * column];
}

// Every thread's copy of the right matrix: blocks of kDotDepth rows, each column by column.
float* take_columns(const Products& p, Scratch& scratch) {
  return scratch.take<float>(checked_mul(p.gemm.threads(), p.gemm.n * p.gemm.depth));
}

// Columns that fill a vector's lanes only in part would cost as much as if they filled them. (1024 x 1024 by a vector:
// three times as quick as the blocked product; Cascade Lake, AVX-512, 2026-11-28)
template <class Starts>
void run_dots(const Products& p, const MatmulArgs& args, Scratch& scratch, const Starts& starts) {
  constexpr int64_t kRows = 64;
  const int64_t m = p.gemm.m, n = p.gemm.n, depth = p.gemm.depth, groups = ceil_div(m, kRows);
  const int64_t a_row = args.a.strides[args.a.rank - 2];
  const int64_t b_row = args.b.strides[args.b.rank - 2], b_column = args.b.strides[args.b.rank - 1];
  float* const memory = take_columns(p, scratch);
  parallel_for(p.gemm.products * groups, p.gemm.threads(), [&](int64_t begin, int64_t end, int part) noexcept {
    float* const columns = memory + part * n * depth;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t product = task / groups, first = task % groups * kRows, count = std::min(kRows, m - first);
      const Offsets<2> start = starts(product);
      for (int64_t k = 0; k < depth; k += kDotDepth) {
        const int64_t length = std::min(kDotDepth, depth - k);
        if (task == begin || first == 0)
          pack(args.b.floats() + start[1] + k * b_row, b_row, b_column, length, n, columns + k * n);
        const float* rows[kRows];
        for (int64_t i = 0; i < count; ++i) rows[i] = args.a.floats() + start[0] + (first + i) * a_row + k;
        float* const dst = args.dst + (product * m + first) * n;
        GemmArgs g{};
        g.rows = rows;
        g.rows_stride = g.m = count;
        g.n = g.dst_stride = g.epilogue.residual_stride = n;
        g.taps = 1;
        g.depth = length;
        g.weight = columns + k * n;
        g.dst = dst;
        if (k > 0) g.epilogue.residual = dst;
        args.kernels->dot_rows(g);
      }
    }
  });
}

}  // namespace

bool is_left_matrix(const Tensor& a) { return a.shape[a.rank - 1] == 1 || a.strides[a.rank - 1] == 1; }

bool is_right_matrix(const Tensor& b) { return b.strides[b.rank - 1] == 1 || b.strides[b.rank - 2] == 1; }

MatmulShapes::MatmulShapes(const Tensor& first, const Tensor& second) {
  if (first.rank < 2 || second.rank < 2 || first.shape[first.rank - 1] != second.shape[second.rank - 2])
    throw std::invalid_argument("matmul: the matrices do not fit");
  Tensor stack_a = first, stack_b = second, stack;
  stack_a.rank -= 2;
  stack_b.rank -= 2;
  broadcast_shapes(stack_a, stack_b, "matmul", stack);
  a = b = stack;
  a.rank = b.rank = stack.rank + 2;
  for (int i : {1, 2}) {
    a.shape[a.rank - i] = first.shape[first.rank - i];
    b.shape[b.rank - i] = second.shape[second.rank - i];
  }
  product = a;
  product.shape[a.rank - 1] = b.shape[b.rank - 1];
}

Tensor stacked(const Tensor& matrices, const Tensor& like) {
  Tensor view = broadcast_to(matrices, like);
  for (int i : {1, 2}) view.strides[view.rank - i] = matrices.strides[matrices.rank - i];
  return view;
}

void reserve_matmul(const MatmulArgs& args, Scratch& scratch) {
  const Products p = products_of(args);
  if (has_few_columns(p))
    take_columns(p, scratch);
  else
    BlockGemmMemory(p.gemm, scratch);
}

void run_matmul(const MatmulArgs& args, Scratch& scratch) {
  const Tensor &a = args.a, &b = args.b;
  float* dst = args.dst;
  if (a.rank != b.rank || a.rank < 2 || a.shape[a.rank - 1] != b.shape[b.rank - 2])
    throw std::invalid_argument("matmul: the matrices do not fit");
  if (!is_left_matrix(a) || !is_right_matrix(b))
    throw std::invalid_argument("matmul: rows of the left and rows or columns of the right matrix must be dense");
  const Products p = products_of(args);
  const int64_t a_row = a.strides[a.rank - 2];
  const int64_t b_row = b.strides[b.rank - 2], b_column = b.strides[b.rank - 1];
  const float *left = a.floats(), *right = b.floats();
  const int64_t size = p.gemm.m * p.gemm.n;
  if (p.gemm.depth == 0) {
    std::fill_n(dst, p.gemm.products * size, 0.0f);
    return;
  }
  const auto starts = [&](int64_t product) noexcept {
    Offsets<2> found{};
    p.stack.walk(0, p.stack.rank, product, product + 1, [&](const Offsets<2>& at) { found = at; });
    return found;
  };
  if (has_few_columns(p)) return run_dots(p, args, scratch, starts);
  block_gemm(
      p.gemm, scratch,
      [&](int64_t product, int64_t first, int64_t count, const float** pointers) noexcept {
        const float* from = left + starts(product)[0];
        for (int64_t i = 0; i < count; ++i) pointers[i] = from + (first + i) * a_row;
      },
      [&](int64_t product, int64_t k, int64_t count, int64_t first, int64_t columns, int64_t width,
          float* to) noexcept {
        const float* from = right + starts(product)[1] + k * b_row + first * b_column;
        if (b_column == 1)
          pack_rows(from, b_row, count, columns, width, to);
        else
          pack_columns(from, b_column, count, columns, width, to);
      },
      [&](int64_t product) noexcept { return dst + product * size; });
}

}  // namespace convlane
