// Products of stacks of matrices that broadcast.
#pragma once

#include "kernels/table.h"
#include "ops/tensor.h"
#include "runtime/buffer.h"

namespace convlane {

// Whether run_matmul accepts a matrix with these strides of its last two dimensions as the left (right) one.
bool is_left_matrix(const Tensor& a);
bool is_right_matrix(const Tensor& b);

// dst (..., m, n), dense in C order, = a (..., m, k) times b (..., k, n), all of one rank of at least 2 and, except for
// the last two dimensions, of one shape; the stacks may have any strides.
struct MatmulArgs {
  Tensor a, b;
  float* dst;
  const KernelTable* kernels;
  int threads;  // at most
};
void run_matmul(const MatmulArgs& args, Scratch& scratch);

// Takes the scratch of run_matmul for matrices of the same shapes, that many threads and the same kernels.
void reserve_matmul(const MatmulArgs& args, Scratch& scratch);

// Two arrays of matrices as run_matmul takes them, and the shape of the result, by their shapes: the stacks broadcast.
// std::invalid_argument where the matrices or stacks do not fit.
struct MatmulShapes {
  Tensor a, b, product;
  MatmulShapes(const Tensor& first, const Tensor& second);
};
// The matrices seen in the shape of `like`, one of the above.
Tensor stacked(const Tensor& matrices, const Tensor& like);

}  // namespace convlane
