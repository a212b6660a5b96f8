// Cross-entropy of rows of logits against classes or probabilities. Rows do not depend on each other, so results do not
// depend on the number of threads.
#pragma once

#include "kernels/table.h"

namespace convlane {

// std::invalid_argument where a target is not a class; rows with negative targets do not count.
void check_targets(const CrossEntropyArgs& args);

// dst: a number per row.
void run_cross_entropy(const CrossEntropyArgs& args);

// dst: rows like src's, from the gradient of those numbers.
void run_cross_entropy_gradient(const CrossEntropyArgs& args);

}  // namespace convlane
