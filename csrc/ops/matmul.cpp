// Stacks of matrix products, merged and handed to the blocked matrix product.
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

void reserve_matmul(const MatmulArgs& args, Scratch& scratch) { BlockGemmMemory(products_of(args).gemm, scratch); }

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
  const auto places = [&](int64_t product) noexcept {
    Places<2> found{};
    p.stack.walk(0, p.stack.rank, product, product + 1, [&](const Places<2>& at) { found = at; });
    return found;
  };
  block_gemm(
      p.gemm, scratch,
      [&](int64_t product, int64_t first, int64_t count, const float** pointers) noexcept {
        const float* from = left + places(product)[0];
        for (int64_t i = 0; i < count; ++i) pointers[i] = from + (first + i) * a_row;
      },
      [&](int64_t product, int64_t k, int64_t count, int64_t first, int64_t columns, int64_t width,
          float* to) noexcept {
        const float* from = right + places(product)[1] + k * b_row + first * b_column;
        if (b_column == 1)
          pack_rows(from, b_row, count, columns, width, to);
        else
          pack_columns(from, b_column, count, columns, width, to);
      },
      [&](int64_t product) noexcept { return dst + product * size; });
}

}  // namespace convlane
