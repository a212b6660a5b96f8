// The fully connected layer: a 1x1 convolution over rows.
#pragma once

#include "ops/conv2d.h"

namespace convlane {

// dst (rows, O) = epilogue(src (rows, I) * weight^T); row r of src starts at src + r * src_stride. `weight` is packed
// in panels from (O, I, 1, 1).
void run_linear(const float* src, int64_t rows, int64_t src_stride, const PackedWeight& weight,
                const Epilogue& epilogue, float* dst);

}  // namespace convlane
