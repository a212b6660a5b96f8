// Operations that only move pixels: concatenation and zero padding.
#pragma once

#include <vector>

#include "ops/view.h"

namespace convlane {

// Writes the images one after the other along dimension `dim` of a dense channels-last buffer of `shape`.
// std::invalid_argument unless they fill it exactly.
void run_cat(const std::vector<ImageView>& images, int64_t dim, const Shape4& shape, float* dst);

// Sides of zeros around H and W.
struct Pads {
  int64_t left, right, top, bottom;
};

// std::invalid_argument for negative sides.
Shape4 pad_shape(const Shape4& shape, const Pads& pads);
void run_pad(const ImageView& src, const Pads& pads, float* dst);

}  // namespace convlane
