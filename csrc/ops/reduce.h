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

// dst, float32 and dense in C order, has the dimensions of src for which `reduced` is false, or all of them, with size
// 1 for the reduced ones. Numbers are combined in memory order, independently of the other results and of the threads.
// `correction` is subtracted from the count in a variance's divisor.
struct ReduceArgs {
  Reduce op;
  Tensor src;
  std::array<bool, kMaxRank> reduced;
  double correction;
  float* dst;
};
void run_reduce(const ReduceArgs& args, int threads, Scratch& scratch);

// Takes the scratch of run_reduce for the same sizes and strides.
void reserve_reduce(const ReduceArgs& args, int threads, Scratch& scratch);

// Arrays in C order seen as outer x count x inner, where operations along one dimension run over `count`.
struct Along {
  int64_t outer, count, inner;
};

// outer x inner indices of the first NaN, else of the first of the largest (smallest) numbers; count is not 0.
void run_arg(bool largest, const float* src, const Along& along, int64_t* dst);

// dst[i] = src[0] + ... + src[i], added in double; with `reverse`, from the end on.
void run_cumsum(const float* src, const Along& along, bool reverse, float* dst);

// The k largest (smallest) numbers in descending (ascending) order and their indices; NaN ranks above all others, and
// equal numbers keep the order of their indices. The results are outer x k x inner.
// memory: `count` numbers for each thread.
void run_topk(const float* src, const Along& along, int64_t k, bool largest, float* values, int64_t* indices,
              int64_t* memory, int threads);

// Softmax, or its logarithm; its gradient from the output and the output's gradient. dst may be src, or gradient.
void run_softmax(const float* src, const Along& along, bool log, float* dst);
void run_softmax_gradient(const float* output, const float* gradient, const Along& along, bool log, float* dst);

}  // namespace convlane
