// Resampling along the axes of images: each output is a weighted sum of inputs, axis by axis.
#pragma once

#include <array>
#include <vector>

#include "ops/view.h"

namespace convlane {

// One axis: output i is the sum over k < taps of weight[i * taps + k] times the input at index[i * taps + k]. A weight
// of 0 means that the input is not read.
struct ResizeAxis {
  int64_t taps;
  std::vector<int64_t> index;
  std::vector<float> weight;

  int64_t size() const { return static_cast<int64_t>(index.size()) / taps; }
};

struct ResizeDesc {
  std::array<int64_t, 5> input;    // N, D, H, W, C
  std::array<ResizeAxis, 3> axes;  // of D, H, W

  std::array<int64_t, 5> output() const { return {input[0], axes[0].size(), axes[1].size(), axes[2].size(), input[4]}; }
};

// Refuses tables of unequal size or without taps, and indices outside the input.
void check_resize(const ResizeDesc& desc);

// Floats of scratch.
int64_t resize_scratch(const ResizeDesc& desc, int threads);

// From one dense buffer N, D, H, W, C to another.
void run_resize(const ResizeDesc& desc, const float* src, float* dst, float* scratch, int threads);

}  // namespace convlane
