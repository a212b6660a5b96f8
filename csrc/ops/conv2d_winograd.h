// Tiles of Winograd's F(m x m, 3 x 3) over the images of a convolution.
#pragma once

#include "ops/conv2d.h"

namespace convlane {

struct Tiling {
  int m;
  int64_t points;        // (m + 2)^2
  int64_t across, down;  // tiles per image
  int64_t count;         // tiles in all
};

struct TilePosition {
  int64_t image, y, x;  // of the tile's first output pixel
};

inline Tiling tiling(const Conv2dDesc& d, int m) {
  const int64_t across = ceil_div(d.ow, m), down = ceil_div(d.oh, m);
  return {m, (m + 2) * (m + 2), across, down, d.n * across * down};
}

inline TilePosition position(const Tiling& t, int64_t tile) {
  return {tile / (t.across * t.down), tile / t.across % t.down * t.m, tile % t.across * t.m};
}

// Pointers to the side x side pixels of a dense channels-last image from (y, x) on; zeros outside.
inline void tile_pixels(const float* image, int64_t height, int64_t width, int64_t channels, int64_t y, int64_t x,
                        int side, const float* zeros, const float** pixels) {
  for (int i = 0; i < side; ++i) {
    const bool row_inside = y + i >= 0 && y + i < height;
    const float* row = image + (y + i) * width * channels;
    for (int j = 0; j < side; ++j) {
      const bool inside = row_inside && x + j >= 0 && x + j < width;
      pixels[i * side + j] = inside ? row + (x + j) * channels : zeros;
    }
  }
}

}  // namespace convlane
