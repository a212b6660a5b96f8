// A depthwise convolution with the pointwise convolutions around it, as MobileNet and EfficientNet stack them: expand
// (1x1) -> depthwise -> project (1x1). The hidden image between them is several times wider than input and output; if
// the three are computed one after the other, it goes through memory twice.
//
// With squeeze-and-excitation (Hu, Shen and Sun, "Squeeze-and-excitation networks", CVPR 2018) the hidden channels of
// an image are multiplied, before they are projected, by factors that two small layers compute from the channels'
// means.
#pragma once

#include "ops/conv2d.h"

namespace convlane {

struct DepthwiseBlock {
  int64_t
      src_stride;  // floats between pixels: the input's channels, or more where it is a slice of an image's channels
  // Pointwise, from C to the depthwise convolution's channels; null where the block starts with the depthwise one.
  const PackedWeight* expand;
  Epilogue expand_epilogue;
  // Multiplier 1.
  Conv2dDesc depthwise;
  const PackedWeight* depthwise_weight;
  Epilogue depthwise_epilogue;
  // Pointwise layers of one pixel: from the means to fewer numbers, and from those to the factors; null without
  // squeeze-and-excitation.
  const PackedWeight* squeeze;
  Epilogue squeeze_epilogue;
  const PackedWeight* excite;
  Epilogue excite_epilogue;
  // Pointwise, to the block's output.
  const PackedWeight* project;
  Epilogue project_epilogue;
};

// std::invalid_argument when the parts do not fit together.
void check_depthwise_block(const DepthwiseBlock& block);

// Takes the scratch for a run with up to `threads` threads; the epilogues' pointers do not matter.
void reserve_depthwise_block(const DepthwiseBlock& block, int threads, Scratch& scratch);

// src and dst are channels last: src with `src_stride` floats between its pixels, dst dense, as is the residual of
// project_epilogue. Without squeeze-and-excitation the result is bit for bit that of the three convolutions.
void run_depthwise_block(const DepthwiseBlock& block, const float* src, float* dst, int threads, Scratch& scratch);

}  // namespace convlane
