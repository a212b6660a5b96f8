// Pictures sampled at points between their pixels: rotations, shears, resized crops, local warping.
#pragma once

#include <string>

#include "ops/view.h"

namespace convlane {

// What is read outside the picture: one value, the nearest edge pixel, or the picture mirrored in its edge pixels.
enum class Border { constant, edge, reflect };

Border border_of(const std::string& name);  // ValueError for any other

// Output pixel (y, x) is read at matrix * (x, y, 1), both relative to the centre of their picture, plus its
// displacement if there is a field: (2, height, width), x first. If samples > 1 it is the mean of samples * samples
// such points spread evenly over its area, all with the displacement of its centre.
struct ResampleDesc {
  std::array<double, 6> matrix;
  Pair size;  // of the output
  Border border;
  float fill;
  int64_t samples;
};

// Checks the description against an image (1, C, H, W); ValueError.
void check_resample(const ResampleDesc& desc, const Shape4& src);

// Writes a dense channels-last image. Runs in the calling thread alone: many of these run side by side.
void run_resample(const ResampleDesc& desc, const ImageView& src, const float* field, float* dst) noexcept;

}  // namespace convlane
