// Element-wise operations on dense arrays of one layout, and scaling of channels. dst may always be a source.
#pragma once

#include "kernels/table.h"
#include "ops/view.h"

namespace convlane {

// dst = activation(a + b)
void run_add(const float* a, const float* b, float* dst, int64_t count, Activation activation, float slope);

void run_multiply(const float* a, const float* b, float* dst, int64_t count);

// Images of any layout times one factor per channel, into a channels-last buffer; `factor_stride` floats lie between
// the factors of two images (0 when they share them).
void run_scale(const ImageView& src, const float* factor, int64_t factor_stride, float* dst);

// Softmax of each row, or its logarithm.
void run_softmax(const float* src, float* dst, int64_t rows, int64_t channels, bool log);

// From the output of run_softmax and the gradient of that output; dst may be `gradient`.
void run_softmax_gradient(const float* output, const float* gradient, float* dst, int64_t rows, int64_t channels,
                          bool log);

// The gradient of run_scale's factors: for every channel of every image, or of all images together where they share
// the factors, the sum of src * gradient over the pixels. dst: dense. The same bits for any number of threads.
void run_scale_gradient(const ImageView& src, const float* gradient, bool shared, float* dst);

}  // namespace convlane
