// Gradients of two-dimensional convolution. `gradient` is always the output's, (N, O, OH, OW) of the descriptor.
#pragma once

#include "ops/conv2d.h"

namespace convlane {

// Gradient of the input, channels last into dst; weight is (O, C / groups, KH, KW) with any strides. An image's result
// does not depend on the rest of the batch.
void run_conv2d_input_gradient(const Conv2dDesc& desc, const ImageView& gradient, const ImageView& weight, float* dst);

// Gradient of the weight, C-contiguous into dst. The order of its sums follows from the descriptor alone.
void run_conv2d_weight_gradient(const Conv2dDesc& desc, const ImageView& gradient, const ImageView& input, float* dst);

// Gradient of the bias: the sum over each channel.
void run_conv2d_bias_gradient(const ImageView& gradient, float* dst);

// As run_conv2d_weight_gradient for depthwise filters; all dense and channels last.
void run_depthwise_weight_gradient(const Conv2dDesc& desc, const float* gradient, const float* input, float* dst);

// The same for 3x3 filters with stride 1 by Winograd, with its rounding; all dense and channels last.
void run_winograd_weight_gradient(const Conv2dDesc& desc, const float* gradient, const float* input, float* dst);

// Whether Winograd is expected to be faster.
bool winograd_gradient_pays(const Conv2dDesc& desc);

}  // namespace convlane
