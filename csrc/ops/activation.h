// Activations by name, and as an operation of their own.
#pragma once

#include <string>

#include "kernels/table.h"

namespace convlane {

// std::invalid_argument lists the names when `name` is none of them.
Activation activation_from_name(const std::string& name);

void run_activation(const float* src, float* dst, int64_t count, Activation activation, float slope);

}  // namespace convlane
