// Pooling: a fold over windows of each channel's plane. Windows slide by a stride, or are spread over the plane to
// produce a requested output size (adaptive; global pooling is output size 1x1).
#pragma once

#include <optional>

#include "kernels/table.h"
#include "ops/window.h"

namespace convlane {

struct Pool2dDesc {
  Pooling kind;
  Shape4 input;
  Pair output;    // height, width
  bool adaptive;  // then `window` is not used
  Window window;
  bool count_padding = false;                     // average: count the taps in the padding in the divisor, too
  std::optional<int64_t> divisor = std::nullopt;  // average: divide by this instead
  float exponent = 0;                             // power

  Shape4 shape() const { return {input[0], input[1], output[0], output[1]}; }
};

// Error messages begin with `op`.
Pool2dDesc describe_pool2d(const char* op, Pooling kind, const Shape4& input, const Window& window, bool ceil_mode);
Pool2dDesc describe_adaptive_pool2d(const char* op, Pooling kind, const Shape4& input, const Pair& output);

// dst and indices (null, or for maxima their indices h * W + w in the input's plane) are channels last, their pixels
// `dst_stride` apart: C, or more where dst is a slice of the channels of an image. `indices32` are the same in 32 bits,
// as the gradient reads them, with -1 where a window lies in the padding; at most one of the two is given.
void run_pool2d(const Pool2dDesc& desc, const ImageView& src, float* dst, int64_t dst_stride, int64_t* indices,
                std::int32_t* indices32 = nullptr);

// The same of images that are channels last, their pixels `src_stride` apart: C, or more where they are a slice of the
// channels of larger ones.
void run_pool2d(const Pool2dDesc& desc, const float* src, int64_t src_stride, float* dst, int64_t dst_stride,
                int64_t* indices, std::int32_t* indices32 = nullptr);

// Maxima of volumes are found in two passes: in every plane, at `within` (N * D, h, w, C), and then along the depth of
// what was pooled, at `rows` (N, OD, h * w, C), whose shape (N, C, OD, h * w) is given. dst, laid out as rows: their
// indices (d * H + h) * W + w in volumes of planes of `plane` = H * W pixels.
void run_indices_in_volumes(const int64_t* within, int64_t depth, int64_t plane, const int64_t* rows,
                            const Shape4& shape, int64_t* dst);

// The gradient of the input from that of the output; dst is dense channels last. Maxima need their indices,
// channels last too; averages have none. Every pixel sums its windows in their order.
void run_pool2d_gradient(const Pool2dDesc& desc, const ImageView& gradient, const std::int32_t* indices32, float* dst);

// The range of input rows that output row y folds; empty where a dilated window lies in the padding.
Range pool2d_inputs(const Pool2dDesc& desc, int64_t y);

// One row of run_pool2d's output, for callers that have only part of the input at a time. The numbers are the same.
struct Pool2dRow {
  int64_t y;           // in the output of one image
  const float* src;    // channels last, from row `first_row` of the image; pool2d_inputs(y) are there
  int64_t src_stride;  // floats between its pixels
  int64_t first_row;
  int64_t channel, channels;  // the first one to be pooled, and how many
  float* dst;                 // pixels `dst_stride` apart
  int64_t dst_stride;
  int64_t* indices = nullptr;  // as for run_pool2d
  std::int32_t* indices32 = nullptr;
};
void run_pool2d_row(const Pool2dDesc& desc, const KernelTable& kernels, const Pool2dRow& row);

}  // namespace convlane
