// Functions of one number, arithmetic, comparisons and selections, with broadcasting.
#pragma once

#include <string>

#include "kernels/table.h"
#include "ops/tensor.h"

namespace convlane {

// By the names used in convlane.functional; std::invalid_argument for others.
Unary unary_from_name(const std::string& name);
Binary binary_from_name(const std::string& name);
Comparison comparison_from_name(const std::string& name);

// The shape of a result: aligned at the last dimension, sizes of 1 repeat. std::invalid_argument where other sizes
// differ.
void broadcast_shapes(const Tensor& a, const Tensor& b, const std::string& op, Tensor& result);

// The same array viewed in a shape to which it broadcasts.
Tensor broadcast_to(const Tensor& a, const Tensor& like);

// All arguments have dst's shape; dst is dense along some dimension (or has one element), and may be an operand. Values
// are float32, except for the results of comparisons and conditions, which are bool; comparisons also take int64, and
// logical functions take bools.
void run_unary(Unary op, const Tensor& src, float first, float second, const Tensor& dst);
void run_binary(Binary op, const Tensor& a, const Tensor& b, const Tensor& dst);
void run_comparison(Comparison op, const Tensor& a, const Tensor& b, const Tensor& dst);
void run_where(const Tensor& condition, const Tensor& a, const Tensor& b, const Tensor& dst);

}  // namespace convlane
