// Sliding windows: the output-size rule and the checks that convolution, pooling and im2col share.
#pragma once

#include "ops/view.h"

namespace convlane {

using Sides = std::array<int64_t, 4>;  // top, bottom, left, right

struct Window {
  Pair kernel{1, 1}, stride{1, 1}, dilation{1, 1};
  int64_t top = 0, bottom = 0, left = 0, right = 0;  // padding
};

inline Window window_of(const Pair& stride, const Sides& padding, const Pair& dilation, const Pair& kernel = {1, 1}) {
  return {kernel, stride, dilation, padding[0], padding[1], padding[2], padding[3]};
}

inline Sides sides_of(const Window& window) { return {window.top, window.bottom, window.left, window.right}; }

// std::invalid_argument, beginning with `op`, unless sizes are positive and padding is not negative.
void check_window(const char* op, const Window& window);

// Output height and width; error messages begin with `op`. With `ceil_mode` a last window may extend beyond the right
// and bottom edge as long as it starts inside the input or its left padding (torch's rule).
Pair window_output(const char* op, const Window& window, int64_t height, int64_t width, bool ceil_mode = false);

// The output positions [begin, end) of one tap whose input index, out * stride + offset, lies inside [0, size).
struct Range {
  int64_t begin, end;
};
inline Range valid_outputs(int64_t offset, int64_t stride, int64_t size, int64_t outputs) {
  const int64_t begin = offset >= 0 ? 0 : ceil_div(-offset, stride);
  const int64_t last = size - 1 - offset;
  const int64_t end = last < 0 ? 0 : last / stride + 1;
  return {begin < outputs ? begin : outputs, end < begin ? begin : end < outputs ? end : outputs};
}

}  // namespace convlane
