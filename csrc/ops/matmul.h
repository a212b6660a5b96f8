// Products of stacks of matrices that broadcast.
#pragma once

#include "ops/tensor.h"
#include "runtime/buffer.h"

namespace convlane {

// Whether run_matmul takes a matrix with these strides of its two last dimensions as the left (right) one.
bool is_left_matrix(const Tensor& a);
bool is_right_matrix(const Tensor& b);

// dst (..., m, n), dense in C order, = a (..., m, k) times b (..., k, n), all of one rank of at least 2 and, but for
// the two last dimensions, of one shape; strides of stacks are free.
void run_matmul(const Tensor& a, const Tensor& b, float* dst, Scratch& scratch);

// Takes what run_matmul takes for matrices of the same shapes.
void reserve_matmul(const Tensor& a, const Tensor& b, Scratch& scratch);

}  // namespace convlane
