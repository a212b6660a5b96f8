// Tiles of Winograd's F(m x m, 3 x 3) over the images of a convolution. With a dilation of d, the outputs of one phase,
// those with one residue modulo d in each direction, are a convolution without dilation over every d-th pixel: its
// tiles have pixels d apart.
#pragma once

#include "ops/conv2d.h"

namespace convlane {

// The tiles along one dimension, phase by phase. The first phases have one output more where the dilation does not
// divide the number of outputs.
struct TileLine {
  int64_t m, step;                      // outputs of a tile, and the distance between its pixels
  int64_t longer, longer_tiles, tiles;  // how many phases are longer, tiles of each of them, and of each of the others
  int64_t count;
  TileLine(int64_t outputs, int64_t tile, int64_t dilation)
      : m(tile),
        step(dilation),
        longer(outputs % dilation),
        longer_tiles(ceil_div(outputs / dilation + 1, tile)),
        tiles(ceil_div(outputs / dilation, tile)),
        count(longer * longer_tiles + (dilation - longer) * tiles) {}
  // The first output of a tile.
  int64_t begin(int64_t tile) const {
    if (step == 1) return tile * m;
    const int64_t others = tile - longer * longer_tiles;
    if (others < 0) return tile / longer_tiles + tile % longer_tiles * m * step;
    return longer + others / tiles + others % tiles * m * step;
  }
};

struct Tiling {
  int m;
  int64_t points;         // (m + 2)^2
  int64_t step;           // distance between a tile's pixels, in both directions
  TileLine across, down;  // of an image
  int64_t count;          // tiles in all
};

struct TilePosition {
  int64_t image, y, x;  // of the tile's first output pixel
};

inline Tiling tiling(const Conv2dDesc& d, int m) {
  const int64_t step = d.window.dilation[0];
  const TileLine across(d.ow, m, step), down(d.oh, m, step);
  return {m, (m + 2) * (m + 2), step, across, down, d.n * across.count * down.count};
}

inline TilePosition position(const Tiling& t, int64_t tile) {
  const int64_t line = tile / t.across.count;
  return {line / t.down.count, t.down.begin(line % t.down.count), t.across.begin(tile % t.across.count)};
}

// Pointers to side x side pixels of a dense channels-last image, `step` apart, from (y, x) on; zeros outside.
inline void tile_pixels(const float* image, int64_t height, int64_t width, int64_t channels, int64_t y, int64_t x,
                        int64_t step, int side, const float* zeros, const float** pixels) {
  for (int i = 0; i < side; ++i, y += step) {
    const bool row_inside = y >= 0 && y < height;
    const float* row = image + y * width * channels;
    for (int j = 0; j < side; ++j) {
      const int64_t column = x + j * step;
      const bool inside = row_inside && column >= 0 && column < width;
      pixels[i * side + j] = inside ? row + column * channels : zeros;
    }
  }
}

}  // namespace convlane
