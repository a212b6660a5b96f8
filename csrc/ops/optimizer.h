// One step of an optimiser over all parameters of a network, which share one buffer.
#pragma once

#include <vector>

#include "kernels/table.h"

namespace convlane {

// One parameter's section of the buffers, its gradient, and what may differ between parameters.
struct Segment {
  int64_t offset, count;
  const float* gradient;
  float lr, weight_decay;
  float shrink;  // factor of the parameter itself, for decoupled weight decay
};

// What all parameters share; src, dst, first and second are the buffers.
void run_update(Rule rule, const UpdateArgs& common, const std::vector<Segment>& segments);

// The same for any number of threads.
double run_sum_of_squares(const std::vector<Segment>& segments);

}  // namespace convlane
