// The fully connected layer: a 1x1 convolution over rows.
#pragma once

#include "ops/conv2d.h"

namespace convlane {

// dst (rows, O) = epilogue(src (rows, I) * weight^T); row r of src starts at src + r * src_stride. `weight` is packed
// in panels from (O, I, 1, 1).
struct LinearArgs {
  const float* src;
  int64_t rows, src_stride;
  const PackedWeight* weight;
  Epilogue epilogue;
  float* dst;
  int threads;  // at most
};
void run_linear(const LinearArgs& args, Scratch& scratch);

// Takes the scratch of run_linear with that many rows and threads and the same weight.
void reserve_linear(const LinearArgs& args, Scratch& scratch);

// As run_linear, bit for bit, with a weight (O, I) whose rows are contiguous and which is read once without a packed
// copy: for weights that change from one call to the next.
void run_linear_unpacked(const float* src, int64_t rows, int64_t src_stride, const float* weight, const Pair& shape,
                         const Epilogue& epilogue, float* dst);

// Gradient of the input: dst (rows, I) = gradient (rows, O) * weight (O, I).
void run_linear_input_gradient(const float* gradient, int64_t rows, int64_t gradient_stride, const float* weight,
                               const Pair& shape, float* dst);

}  // namespace convlane
