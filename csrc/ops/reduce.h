// Reductions over any dimensions, and operations along one.
#pragma once

#include <string>

#include "kernels/table.h"
#include "ops/tensor.h"
#include "runtime/buffer.h"

namespace convlane {

enum class Reduce { sum, mean, var, prod, amax, amin };

// By the names of convlane.functional; std::invalid_argument for others.
Reduce reduce_from_name(const std::string& name);

// dst, float32 and dense in C order, has the dimensions of src for which `reduced` is false, or all, those with size 1.
// Numbers are joined in an order that neither the other results nor threads change: that of memory. `correction` is
// subtracted from the count in a variance's divisor.
struct ReduceArgs {
  Reduce op;
  Tensor src;
  std::array<bool, kMaxRank> reduced;
  double correction;
  float* dst;
};
void run_reduce(const ReduceArgs& args, int threads, Scratch& scratch);

// Takes what run_reduce takes for the same sizes and strides.
void reserve_reduce(const ReduceArgs& args, int threads, Scratch& scratch);

// Arrays in C order as outer x count x inner numbers, of which operations along one dimension take `count`.
struct Along {
  int64_t outer, count, inner;
};

// outer x inner indices of the first NaN, else of the first of the largest (smallest) numbers; count is not 0.
void run_arg(bool largest, const float* src, const Along& along, int64_t* dst);

// dst[i] = src[0] + ... + src[i], added in double; with `reverse`, from the end on.
void run_cumsum(const float* src, const Along& along, bool reverse, float* dst);

// The k largest (smallest) of the numbers in falling (rising) order and their indices, NaN above all others; equal
// ones in the order of their indices. The results are outer x k x inner.
// memory: `count` numbers for each thread.
void run_topk(const float* src, const Along& along, int64_t k, bool largest, float* values, int64_t* places,
              int64_t* memory, int threads);

// Softmax, or its logarithm; its gradient from the output and that of the output. dst may be src, or gradient.
void run_softmax(const float* src, const Along& along, bool log, float* dst);
void run_softmax_gradient(const float* output, const float* gradient, const Along& along, bool log, float* dst);

}  // namespace convlane
