// Bilinear resampling. The four pixels around a point are determined once for all channels.
#include "ops/resample.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace convlane {
namespace {

// The two pixels next to a point along one axis. A pixel outside the picture has weight 0 and index 0.
struct Taps {
  int64_t index[2];
  float weight[2];
};

// Maps a coordinate into [0, last]. NaN becomes 0.
double folded(double coordinate, double last, Border border) {
  if (border == Border::reflect && last > 0) {
    coordinate = std::fabs(std::fmod(coordinate, 2 * last));
    if (coordinate > last) coordinate = 2 * last - coordinate;
  }
  coordinate = coordinate > 0 ? coordinate : 0;
  return std::min(coordinate, last);
}

Taps taps_at(double coordinate, int64_t size, Border border) {
  if (border == Border::constant) {
    if (!(coordinate > -1 && coordinate < static_cast<double>(size))) return {{0, 0}, {0, 0}};
  } else {
    coordinate = folded(coordinate, static_cast<double>(size - 1), border);
  }
  const int64_t cut = static_cast<int64_t>(coordinate),
                first = cut - (static_cast<double>(cut) > coordinate);  // rounded down
  const float part = static_cast<float>(coordinate - static_cast<double>(first));
  Taps taps{{first, first + 1}, {1 - part, part}};
  for (int i = 0; i < 2; ++i)
    if (taps.index[i] < 0 || taps.index[i] >= size) taps.index[i] = 0, taps.weight[i] = 0;
  return taps;
}

// Adds `share` of what the picture has at a point to all channels of a pixel.
void add_point(const ImageView& src, const Taps& rows, const Taps& columns, float fill, float share, float* dst) {
  const int64_t channels = src.shape[1], step = src.strides[1];
  const float* upper = src.data + rows.index[0] * src.strides[2];
  const float* lower = src.data + rows.index[1] * src.strides[2];
  const int64_t left = columns.index[0] * src.strides[3], right = columns.index[1] * src.strides[3];
  const float w00 = rows.weight[0] * columns.weight[0], w01 = rows.weight[0] * columns.weight[1];
  const float w10 = rows.weight[1] * columns.weight[0], w11 = rows.weight[1] * columns.weight[1];
  const float inside = (rows.weight[0] + rows.weight[1]) * (columns.weight[0] + columns.weight[1]);
  const float beyond = (1 - inside) * fill;
  for (int64_t c = 0; c < channels; ++c) {
    const int64_t at = c * step;
    const float value =
        w00 * upper[at + left] + w01 * upper[at + right] + w10 * lower[at + left] + w11 * lower[at + right] + beyond;
    dst[c] += share * value;
  }
}

}  // namespace

Border border_of(const std::string& name) {
  if (name == "constant") return Border::constant;
  if (name == "edge") return Border::edge;
  if (name == "reflect") return Border::reflect;
  throw std::invalid_argument("border must be 'constant', 'edge' or 'reflect', got '" + name + "'");
}

void check_resample(const ResampleDesc& desc, const Shape4& src) {
  if (src[0] != 1 || src[2] < 1 || src[3] < 1)
    throw std::invalid_argument("image must have at least one pixel, got the size " + to_string(Pair{src[2], src[3]}));
  if (desc.size[0] < 1 || desc.size[1] < 1)
    throw std::invalid_argument("size must be at least (1, 1), got " + to_string(desc.size));
  if (desc.samples < 1 || desc.samples > 64)
    throw std::invalid_argument("samples must be between 1 and 64, got " + std::to_string(desc.samples));
  if (!std::all_of(desc.matrix.begin(), desc.matrix.end(), [](double value) { return std::isfinite(value); }))
    throw std::invalid_argument("matrix must be finite");
  if (!std::isfinite(desc.fill)) throw std::invalid_argument("fill must be finite");
}

void run_resample(const ResampleDesc& desc, const ImageView& src, const float* field, float* dst) noexcept {
  const auto [height, width] = desc.size;
  const int64_t channels = src.shape[1], samples = desc.samples;
  const auto& m = desc.matrix;
  const float share = 1.0f / static_cast<float>(samples * samples);
  const double step = 1.0 / static_cast<double>(samples);
  const double middle_x = (src.shape[3] - 1) / 2.0, middle_y = (src.shape[2] - 1) / 2.0;
  std::fill_n(dst, height * width * channels, 0.0f);
  for (int64_t row = 0; row < height; ++row) {
    for (int64_t column = 0; column < width; ++column, dst += channels) {
      const double shift_x = field ? field[row * width + column] : 0.0;
      const double shift_y = field ? field[(height + row) * width + column] : 0.0;
      for (int64_t i = 0; i < samples; ++i) {
        const double y = row - (height - 1) / 2.0 + (i + 0.5) * step - 0.5;
        for (int64_t j = 0; j < samples; ++j) {
          const double x = column - (width - 1) / 2.0 + (j + 0.5) * step - 0.5;
          const Taps rows = taps_at(m[3] * x + m[4] * y + m[5] + shift_y + middle_y, src.shape[2], desc.border);
          const Taps columns = taps_at(m[0] * x + m[1] * y + m[2] + shift_x + middle_x, src.shape[3], desc.border);
          add_point(src, rows, columns, desc.fill, share, dst);
        }
      }
    }
  }
}

}  // namespace convlane
