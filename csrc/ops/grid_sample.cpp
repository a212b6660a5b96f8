// A sampling point becomes a few pixels and their weights; the kernels that blend pixels, and their adjoints, do the
// rest.
#include "ops/grid_sample.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/table.h"
#include "ops/parallel.h"

namespace convlane {
namespace {

constexpr int kMostTaps = 4;           // along one axis
constexpr int64_t kChannelBlock = 16;  // a cache line
constexpr float kFar = 1 << 24;        // coordinates beyond this are clamped to it; NaN becomes -kFar

int taps_along(const GridSampleDesc& desc) {
  return desc.mode == Sampling::nearest ? 1 : desc.mode == Sampling::bilinear ? 2 : 4;
}

int64_t taps_of(const GridSampleDesc& desc) {
  int64_t taps = 1;
  for (int axis = 0; axis < desc.axes; ++axis) taps *= taps_along(desc);
  return taps;
}

// The pixels along one axis that are blended for a point (-1 where there is none), their weights, and the weights'
// derivatives with respect to the grid's number.
struct Taps {
  int64_t index[kMostTaps];
  float weight[kMostTaps], slope[kMostTaps];
};

// A coordinate along one axis, and its derivative with respect to the grid's number.
struct Coordinate {
  float at, slope;
};

// Mirrors a coordinate at the ends of the axis: at 0 and size - 1 if the corners are aligned, else half a pixel beyond
// them.
Coordinate reflected(Coordinate coordinate, int64_t size, bool align_corners) {
  const float low = align_corners ? 0.0f : -0.5f;
  const float span = static_cast<float>(align_corners ? size - 1 : size);
  if (span == 0) return {0, 0};
  float distance = coordinate.at - low;
  if (distance < 0) {
    distance = -distance;
    coordinate.slope = -coordinate.slope;
  }
  const float beyond = std::fmod(distance, span);
  const bool turned = std::fmod(std::floor(distance / span), 2.0f) != 0;
  return turned ? Coordinate{span - beyond + low, -coordinate.slope} : Coordinate{beyond + low, coordinate.slope};
}

// Clamps a coordinate to [0, size - 1]. NaN becomes 0.
Coordinate clamped(const Coordinate& coordinate, int64_t size) {
  const float last = static_cast<float>(size - 1);
  if (!(coordinate.at > 0)) return {0, 0};
  return coordinate.at >= last ? Coordinate{last, 0} : coordinate;
}

Coordinate inside(Coordinate coordinate, int64_t size, const GridSampleDesc& desc) {
  if (desc.outside == Outside::reflection) coordinate = reflected(coordinate, size, desc.align_corners);
  return desc.outside == Outside::zeros ? coordinate : clamped(coordinate, size);
}

// Keys' cubic convolution (1981) with a = -3/4, by the distance to a pixel: the two nearest pixels, and the two beyond
// them.
constexpr float kCubic = -0.75f;
float inner(float d) { return ((kCubic + 2) * d - (kCubic + 3)) * d * d + 1; }
float outer(float d) { return ((kCubic * d - 5 * kCubic) * d + 8 * kCubic) * d - 4 * kCubic; }
float inner_slope(float d) { return (3 * (kCubic + 2) * d - 2 * (kCubic + 3)) * d; }
float outer_slope(float d) { return (3 * kCubic * d - 10 * kCubic) * d + 8 * kCubic; }

// The taps for a number of the grid. The steps are rounded as in torch, so that the nearest pixel is the same one.
Taps taps_at(float number, int64_t size, const GridSampleDesc& desc) {
  const float scale = static_cast<float>(desc.align_corners ? size - 1 : size) / 2;
  Coordinate coordinate{(number + 1) * scale - (desc.align_corners ? 0.0f : 0.5f), scale};
  if (desc.mode != Sampling::bicubic) coordinate = inside(coordinate, size, desc);
  coordinate.at = coordinate.at > -kFar ? std::min(coordinate.at, kFar) : -kFar;
  Taps taps{};
  const float cut = desc.mode == Sampling::nearest ? std::nearbyint(coordinate.at) : std::floor(coordinate.at);
  const float t = coordinate.at - cut;
  const int64_t first = static_cast<int64_t>(cut);
  int count = 1;
  if (desc.mode == Sampling::nearest) {
    taps = {{first}, {1}, {0}};
  } else if (desc.mode == Sampling::bilinear) {
    taps = {{first, first + 1}, {1 - t, t}, {-coordinate.slope, coordinate.slope}};
    count = 2;
  } else {
    taps = {{first - 1, first, first + 1, first + 2},
            {outer(t + 1), inner(t), inner(1 - t), outer(2 - t)},
            {coordinate.slope * outer_slope(t + 1), coordinate.slope * inner_slope(t),
             -coordinate.slope * inner_slope(1 - t), -coordinate.slope * outer_slope(2 - t)}};
    count = 4;
    if (desc.outside != Outside::zeros)
      for (int64_t& index : taps.index)
        index = static_cast<int64_t>(inside({static_cast<float>(index), 0}, size, desc).at);
  }
  for (int k = 0; k < count; ++k)
    if (taps.index[k] < 0 || taps.index[k] >= size) taps.index[k] = -1, taps.weight[k] = 0;
  return taps;
}

// The taps of a sampling point along D, H and W.
std::array<Taps, 3> taps_of_point(const GridSampleDesc& desc, const float* point) {
  std::array<Taps, 3> taps{Taps{{0}, {1}, {0}}};
  for (int axis = 0; axis < desc.axes; ++axis)
    taps[static_cast<std::size_t>(2 - axis)] =
        taps_at(point[axis], desc.input[static_cast<std::size_t>(3 - axis)], desc);
  return taps;
}

// Calls body(d, h, w) for the taps along each axis, in the order of the tables.
template <class Body>
void for_taps(const GridSampleDesc& desc, const Body& body) {
  const int count = taps_along(desc), depth = desc.axes == 3 ? count : 1;
  for (int d = 0; d < depth; ++d)
    for (int h = 0; h < count; ++h)
      for (int w = 0; w < count; ++w) body(d, h, w);
}

// The pixels that are blended for the points, in memory order, and their weights: (count, taps) each.
void make_tables(const GridSampleDesc& desc, const float* grid, int64_t count, int64_t* index, float* weight) {
  const int64_t height = desc.input[2], width = desc.input[3];
  for (int64_t p = 0; p < count; ++p, grid += desc.axes) {
    const std::array<Taps, 3> taps = taps_of_point(desc, grid);
    for_taps(desc, [&](int d, int h, int w) {
      const int64_t z = taps[0].index[d], y = taps[1].index[h], x = taps[2].index[w];
      const bool exists = z >= 0 && y >= 0 && x >= 0;
      *index++ = exists ? (z * height + y) * width + x : -1;
      *weight++ = exists ? taps[0].weight[d] * taps[1].weight[h] * taps[2].weight[w] : 0;
    });
  }
}

// The products of an output's gradient with each of the pixels that it is blended from.
void find_grid_gradient(const GridSampleDesc& desc, const float* grid, const float* dots, int64_t count, float* dst) {
  for (int64_t p = 0; p < count; ++p, grid += desc.axes, dst += desc.axes) {
    const std::array<Taps, 3> taps = taps_of_point(desc, grid);
    std::fill_n(dst, desc.axes, 0.0f);
    for_taps(desc, [&](int d, int h, int w) {
      const float dot = *dots++;
      const Taps &ds = taps[0], &hs = taps[1], &ws = taps[2];
      if (ds.index[d] < 0 || hs.index[h] < 0 || ws.index[w] < 0) return;
      dst[0] += dot * ds.weight[d] * hs.weight[h] * ws.slope[w];
      dst[1] += dot * ds.weight[d] * hs.slope[h] * ws.weight[w];
      if (desc.axes == 3) dst[2] += dot * ds.slope[d] * hs.weight[h] * ws.weight[w];
    });
  }
}

int64_t pixels_of(const GridSampleDesc& desc) { return desc.input[1] * desc.input[2] * desc.input[3]; }

int threads_of(const GridSampleDesc& desc, int64_t images, int threads) {
  return threads_for(images * desc.points() * taps_of(desc) * desc.input[4], threads);
}

}  // namespace

Sampling sampling_from_name(const std::string& name) {
  if (name == "nearest") return Sampling::nearest;
  if (name == "bilinear") return Sampling::bilinear;
  if (name == "bicubic") return Sampling::bicubic;
  throw std::invalid_argument("grid_sample: mode must be bilinear, nearest or bicubic, got '" + name + "'");
}

Outside outside_from_name(const std::string& name) {
  if (name == "zeros") return Outside::zeros;
  if (name == "border") return Outside::border;
  if (name == "reflection") return Outside::reflection;
  throw std::invalid_argument("grid_sample: padding_mode must be zeros, border or reflection, got '" + name + "'");
}

void check_grid_sample(const GridSampleDesc& desc) {
  if (desc.axes != 2 && desc.axes != 3)
    throw std::invalid_argument("grid_sample: grid points must have 2 or 3 coordinates");
  if (desc.axes == 3 && desc.mode == Sampling::bicubic)
    throw std::invalid_argument("grid_sample: bicubic is for images, not for volumes");
  if (desc.axes == 2 && (desc.input[1] != 1 || desc.output[0] != 1))
    throw std::invalid_argument("grid_sample: a grid with 2 coordinates needs images, whose depth is 1");
  int64_t count = 1, points = desc.input[0];
  for (int64_t size : desc.input) count = checked_mul(count, size);
  for (int64_t size : desc.output) points = checked_mul(points, size);
  checked_mul(points, checked_mul(std::max<int64_t>(desc.input[4], 1), taps_of(desc)));
  if (pixels_of(desc) < 1) throw std::invalid_argument("grid_sample: the images are empty");
}

void reserve_grid_sample(const GridSampleDesc& desc, int threads, Scratch& scratch) {
  const int64_t taps = checked_mul(checked_mul(threads, desc.output[2]), taps_of(desc));
  scratch.take<int64_t>(taps);
  scratch.take<float>(taps);
}

void run_grid_sample(const GridSampleDesc& desc, const float* src, const float* grid, float* dst, int threads,
                     Scratch& scratch) {
  const int64_t width = desc.output[2], rows = desc.output[0] * desc.output[1], channels = desc.input[4];
  const int64_t taps = taps_of(desc), image = pixels_of(desc) * channels, table = width * taps;
  auto* indices = scratch.take<int64_t>(threads * table);
  auto* weights = scratch.take<float>(threads * table);
  const auto blend = active_table().blend_pixels;
  parallel_for(desc.input[0] * rows, threads_of(desc, desc.input[0], threads),
               [&](int64_t begin, int64_t end, int part) noexcept {
                 int64_t* index = indices + part * table;
                 float* weight = weights + part * table;
                 for (int64_t row = begin; row < end; ++row) {
                   make_tables(desc, grid + row * width * desc.axes, width, index, weight);
                   blend(src + row / rows * image, index, weight, taps, width, channels, dst + row * width * channels);
                 }
               });
}

void reserve_grid_sample_gradient(const GridSampleDesc& desc, int threads, Scratch& scratch) {
  const int64_t taps = taps_of(desc), all = checked_mul(desc.points(), taps);
  scratch.take<int64_t>(all);
  scratch.take<float>(all);
  scratch.take<float>(checked_mul(threads, desc.output[2] * taps));
}

// Image by image. Each thread adds to channels of its own, in the order of the points, so that sums do not depend on
// the number of threads.
void run_grid_sample_gradient(const GridSampleDesc& desc, const float* src, const float* grid, const float* gradient,
                              float* src_gradient, float* grid_gradient, int threads, Scratch& scratch) {
  const int64_t width = desc.output[2], rows = desc.output[0] * desc.output[1], channels = desc.input[4];
  const int64_t taps = taps_of(desc), points = desc.points(), image = pixels_of(desc) * channels;
  auto* index = scratch.take<int64_t>(points * taps);
  auto* weight = scratch.take<float>(points * taps);
  auto* products = scratch.take<float>(threads * width * taps);
  const int parts = threads_of(desc, 1, threads);
  const KernelTable& kernels = active_table();
  for (int64_t n = 0; n < desc.input[0]; ++n) {
    const float *from = src + n * image, *at = grid + n * points * desc.axes,
                *behind = gradient + n * points * channels;
    parallel_for(rows, parts, [&](int64_t begin, int64_t end, int part) noexcept {
      float* dots = products + part * width * taps;
      for (int64_t row = begin; row < end; ++row) {
        const int64_t first = row * width;
        make_tables(desc, at + first * desc.axes, width, index + first * taps, weight + first * taps);
        if (grid_gradient == nullptr) continue;
        kernels.dot_pixels(from, index + first * taps, taps, width, channels, behind + first * channels, dots);
        find_grid_gradient(desc, at + first * desc.axes, dots, width, grid_gradient + (n * points + first) * desc.axes);
      }
    });
    if (src_gradient == nullptr) continue;
    float* to = src_gradient + n * image;
    parallel_for(
        ceil_div(channels, kChannelBlock), parts,
        [&](int64_t begin, int64_t end, int) noexcept {
          const int64_t first = begin * kChannelBlock, count = std::min(end * kChannelBlock, channels) - first;
          for (int64_t pixel = 0; pixel < pixels_of(desc); ++pixel)
            std::fill_n(to + pixel * channels + first, count, 0.0f);
          kernels.scatter_pixels(behind + first, index, weight, taps, points, count, channels, to + first);
        },
        kWhole);
  }
}

}  // namespace convlane
