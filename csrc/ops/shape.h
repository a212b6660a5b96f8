// Operations that only move numbers: concatenation and interleaving.
#pragma once

#include <vector>

#include "ops/view.h"

namespace convlane {

// Writes the images one after the other along dimension `dim` of a dense channels-last buffer of `shape`.
// std::invalid_argument unless they fill it exactly.
void run_cat(const std::vector<ImageView>& images, int64_t dim, const Shape4& shape, float* dst);

// The channels of images of one shape in turn, the first of each, the second of each and so on: a dense channels-last
// buffer. The channels of each must lie next to each other, and its pixels one stride apart, over all rows and images.
void run_interleave(const ImageView* images, int64_t count, float* dst);

// Whether a view lies in memory as run_interleave takes it.
bool has_one_stride(const ImageView& image);

}  // namespace convlane
