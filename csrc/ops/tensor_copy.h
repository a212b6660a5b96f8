// Copies between arrays of one shape and any strides: the basis of transposes, slices, concatenations and the like.
#pragma once

#include "ops/tensor.h"

namespace convlane {

// The arrays must not overlap. std::invalid_argument unless shapes and types are the same.
void run_copy(const Tensor& src, const Tensor& dst);

}  // namespace convlane
