// Operations that only move numbers: concatenation, interleaving, and rearranging between channels and pixels.
#pragma once

#include <vector>

#include "ops/view.h"

namespace convlane {

// Writes the images one after the other along dimension `dim` of a dense channels-last buffer of `shape`.
// std::invalid_argument unless they fill it exactly.
void run_cat(const std::vector<ImageView>& images, int64_t dim, const Shape4& shape, float* dst);

// Interleaves the channels of images of one shape, the first of each, the second of each and so on, into a dense
// channels-last buffer. The channels of each must be adjacent, and its pixels one stride apart over all rows and
// images.
void run_interleave(const ImageView* images, int64_t count, float* dst);

// Whether run_interleave accepts a view's memory layout.
bool has_one_stride(const ImageView& image);

// Images of many channels, and images in which each of their pixels becomes a square of factor * factor pixels: sizes
// N, C, H, W.
struct Shuffle {
  Shape4 many;
  int64_t factor;

  Shape4 few() const { return {many[0], many[1] / (factor * factor), many[2] * factor, many[3] * factor}; }
};

// std::invalid_argument unless factor squared divides the channels.
void check_shuffle(const Shuffle& shuffle);

// Floats of scratch.
int64_t shuffle_scratch(const Shuffle& shuffle, int threads);

// Between dense channels-last buffers: from many channels to few, and back.
void run_pixel_shuffle(const Shuffle& shuffle, const float* many, float* few, float* scratch, int threads);
void run_pixel_unshuffle(const Shuffle& shuffle, const float* few, float* many, float* scratch, int threads);

}  // namespace convlane
