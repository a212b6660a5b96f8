// Functions of single numbers, arithmetic, comparisons and choices, with broadcasting.
#pragma once

#include <string>

#include "kernels/table.h"
#include "ops/tensor.h"

namespace convlane {

// By the names of convlane.functional; std::invalid_argument for others.
Unary unary_from_name(const std::string& name);
Binary binary_from_name(const std::string& name);
Comparison comparison_from_name(const std::string& name);

// The shape of a result: aligned at the last dimension, sizes of 1 repeat. std::invalid_argument where others differ.
void broadcast_shapes(const Tensor& a, const Tensor& b, const std::string& op, Tensor& result);

// The same numbers seen as an array of a shape to which they broadcast.
Tensor broadcast_to(const Tensor& a, const Tensor& like);

// All arguments have dst's shape; dst has a dimension along which it is dense (or one element), and may be an operand.
// float32 but for what comparisons give, and conditions are; these also take int64, as logical functions take bools.
void run_unary(Unary op, const Tensor& src, float first, float second, const Tensor& dst);
void run_binary(Binary op, const Tensor& a, const Tensor& b, const Tensor& dst);
void run_comparison(Comparison op, const Tensor& a, const Tensor& b, const Tensor& dst);
void run_where(const Tensor& condition, const Tensor& a, const Tensor& b, const Tensor& dst);

}  // namespace convlane
