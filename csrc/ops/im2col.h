// Windows written out as the columns of a matrix, and the adjoint that adds columns back up into an image.
#pragma once

#include "ops/window.h"

namespace convlane {

struct Im2colDesc {
  Shape4 image;
  Window window;
  Pair output;      // positions of the window: height, width
  int64_t rows;     // C * KH * KW, channels slowest
  int64_t columns;  // all positions, row by row
};

// Error messages begin with `op`.
Im2colDesc describe_im2col(const char* op, const Shape4& image, const Window& window);

// dst: (N, rows, columns), dense; zeros where a window reaches outside the image. An image whose rows are not dense is
// copied first.
void im2col(const Im2colDesc& desc, const ImageView& src, float* dst, int threads);

// src: (N, rows, 1, columns), else std::invalid_argument; planes: the image, dense NCHW, where each pixel is the sum
// over its windows' taps in the order of the rows.
void col2im(const Im2colDesc& desc, const ImageView& src, float* planes, int threads);

}  // namespace convlane
