// Pooling: a fold over a window of each channel's plane. Windows slide at a stride, or are spread over the plane so
// that a wanted output size comes out (adaptive; global pooling is the output size 1x1).
#pragma once

#include <optional>

#include "kernels/table.h"
#include "ops/window.h"

namespace convlane {

struct Pool2dDesc {
  Pooling kind;
  Shape4 input;
  Pair output;    // height, width
  bool adaptive;  // then there is no window
  Window window;
  bool count_padding = false;                     // average: divide by the taps in the padding, too
  std::optional<int64_t> divisor = std::nullopt;  // average: divide by this instead
  float exponent = 0;                             // power

  Shape4 shape() const { return {input[0], input[1], output[0], output[1]}; }
};

// `op` starts the error messages.
Pool2dDesc describe_pool2d(const char* op, Pooling kind, const Shape4& input, const Window& window, bool ceil_mode);
Pool2dDesc describe_adaptive_pool2d(const char* op, Pooling kind, const Shape4& input, const Pair& output);

// dst and indices (null, or for maxima their places h * W + w in the input's plane) are channels last, their pixels
// `dst_stride` apart: C, or more where dst is a slice of the channels of an image.
void run_pool2d(const Pool2dDesc& desc, const ImageView& src, float* dst, int64_t dst_stride, int64_t* indices);

}  // namespace convlane
