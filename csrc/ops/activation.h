// Activations by name, and as a stand-alone operation.
#pragma once

#include <string>

#include "kernels/table.h"

namespace convlane {

// std::invalid_argument lists the names when `name` is not one of them.
Activation activation_from_name(const std::string& name);

// std::invalid_argument unless the activation's gradient follows from its output: not for gelu, silu and the like,
// where two inputs can have the same output, nor for leaky_relu with a negative slope.
void check_follows_from_output(Activation activation, const std::string& name, float slope);

void run_activation(const float* src, float* dst, int64_t count, Activation activation, float slope);

// dst: the gradient of the activation's input, from `gradient`, that of its output. `at` is the activation's input or,
// with `from_output`, its output. dst may be `gradient`.
void run_activation_gradient(const float* at, const float* gradient, float* dst, int64_t count, Activation activation,
                             float slope, bool from_output);

}  // namespace convlane
