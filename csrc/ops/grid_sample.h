// Images and volumes sampled at the points of a grid: one for each pixel of the result.
#pragma once

#include <string>

#include "ops/view.h"

namespace convlane {

enum class Sampling { nearest, bilinear, bicubic };
// What is read outside the picture: zeros, the nearest border pixel, or the picture mirrored at its border.
enum class Outside { zeros, border, reflection };

// std::invalid_argument for any other name.
Sampling sampling_from_name(const std::string& name);
Outside outside_from_name(const std::string& name);

// A point has one coordinate per axis, W first: -1 and 1 are the ends of an axis, the centres of its first and last
// pixels if `align_corners`, else their outer edges.
struct GridSampleDesc {
  std::array<int64_t, 5> input;   // N, D, H, W, C; D is 1 where there are two axes
  std::array<int64_t, 3> output;  // D, H, W
  int axes;                       // 2 or 3
  Sampling mode;
  Outside outside;
  bool align_corners;

  int64_t points() const { return output[0] * output[1] * output[2]; }  // of one image
};

// Refuses empty images, bicubic sampling of volumes, and sizes that are too large.
void check_grid_sample(const GridSampleDesc& desc);

// Dense buffers: src (N, D, H, W, C), grid (N, points, axes), dst (N, points, C).
void reserve_grid_sample(const GridSampleDesc& desc, int threads, Scratch& scratch);
void run_grid_sample(const GridSampleDesc& desc, const float* src, const float* grid, float* dst, int threads,
                     Scratch& scratch);

// From the gradient of dst, those of src and grid; either may be null.
void reserve_grid_sample_gradient(const GridSampleDesc& desc, int threads, Scratch& scratch);
void run_grid_sample_gradient(const GridSampleDesc& desc, const float* src, const float* grid, const float* gradient,
                              float* src_gradient, float* grid_gradient, int threads, Scratch& scratch);

}  // namespace convlane
