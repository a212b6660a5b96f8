// Pictures sampled at points between their pixels: rotations, shears, crops of another size, local warping.
#pragma once

#include <string>

#include "ops/view.h"

namespace convlane {

// What lies beyond the picture: one value, the nearest pixel of its edge, or the picture mirrored in its edge pixels.
enum class Border { constant, edge, reflect };

Border border_of(const std::string& name);  // ValueError for any other

// Output pixel (y, x) is read at matrix * (x, y, 1), both counted from the middle of their picture, plus its
// displacement where there is a field: (2, height, width), of x first. Where samples > 1 it is the mean of
// samples * samples such points spread evenly over its area, all with the displacement of its middle.
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
