// Cross-entropy of rows of logits with classes or probabilities as what is wished. Rows do not depend on each other, so
// neither does their result on the number of threads.
#pragma once

#include "kernels/table.h"

namespace convlane {

// std::invalid_argument where a target is no class; negative ones are rows that count nothing.
void check_targets(const CrossEntropyArgs& args);

// dst: a number per row.
void run_cross_entropy(const CrossEntropyArgs& args);

// dst: rows like src's, from the gradient of those numbers.
void run_cross_entropy_gradient(const CrossEntropyArgs& args);

}  // namespace convlane
