// Resampling along the axes of images, one row of the output at a time.
#include "ops/resize.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/table.h"
#include "ops/parallel.h"

namespace convlane {
namespace {

constexpr int64_t kBlended = 64;  // rows that are added up at once

// A row of the output before it is resampled along its own axis: the weighted sum of the input's rows that it needs.
// Returns a pointer to it: into `blended`, or into the input if it is a row of that.
const float* row_of(const ResizeDesc& desc, const KernelTable& kernels, const float* image, int64_t d, int64_t h,
                    float* blended) {
  const ResizeAxis &depth = desc.axes[0], &height = desc.axes[1];
  const int64_t length = desc.input[3] * desc.input[4];
  const float* rows[kBlended];
  float weights[kBlended];
  int64_t count = 0;
  const auto add_up = [&] {
    kernels.blend_rows(rows, weights, count, length, blended);
    rows[0] = blended;  // the sum so far
    weights[0] = 1;
    count = 1;
  };
  for (int64_t i = 0; i < depth.taps; ++i)
    for (int64_t j = 0; j < height.taps; ++j) {
      const int64_t a = d * depth.taps + i, b = h * height.taps + j;
      const float weight = depth.weight[a] * height.weight[b];
      if (weight == 0) continue;
      if (count == kBlended) add_up();
      rows[count] = image + (depth.index[a] * desc.input[2] + height.index[b]) * length;
      weights[count++] = weight;
    }
  if (count == 1 && weights[0] == 1) return rows[0];
  if (count > 0) {
    add_up();
  } else {
    std::fill_n(blended, length, 0.0f);
  }
  return blended;
}

}  // namespace

void check_resize(const ResizeDesc& desc) {
  for (std::size_t i = 0; i < desc.axes.size(); ++i) {
    const ResizeAxis& axis = desc.axes[i];
    if (axis.taps < 1 || axis.index.size() != axis.weight.size() ||
        axis.size() * axis.taps != int64_t(axis.index.size()))
      throw std::invalid_argument("resize: the tables of an axis do not fit together");
    for (int64_t index : axis.index)
      if (index < 0 || index >= desc.input[i + 1])
        throw std::invalid_argument("resize: index " + std::to_string(index) + " is outside of the axis");
  }
  int64_t count = 1;
  for (int64_t size : desc.output()) count = checked_mul(count, size);
}

int64_t resize_scratch(const ResizeDesc& desc, int threads) {
  return checked_mul(checked_mul(desc.input[3], desc.input[4]), threads);
}

void run_resize(const ResizeDesc& desc, const float* src, float* dst, float* scratch, int threads) {
  const auto [n, depth, height, width, channels] = desc.output();
  const ResizeAxis& columns = desc.axes[2];
  const int64_t length = desc.input[3] * channels, image = desc.input[1] * desc.input[2] * length;
  const int64_t work = n * depth * height * width * channels * columns.taps;
  if (work == 0) return;
  const KernelTable& kernels = active_table();
  parallel_for(
      n * depth * height, threads_for(work, threads),
      [&, depth = depth, height = height, width = width, channels = channels](int64_t begin, int64_t end,
                                                                              int part) noexcept {
        float* const blended = scratch + part * length;
        const float* last = blended;
        for (int64_t row = begin; row < end; ++row) {
          const float* from =
              row_of(desc, kernels, src + row / (depth * height) * image, row / height % depth, row % height, blended);
          float* to = dst + row * width * channels;
          if (from == last && from != blended)  // the nearest row of the input is the same again
            std::copy_n(to - width * channels, width * channels, to);
          else
            kernels.blend_pixels(from, columns.index.data(), columns.weight.data(), columns.taps, width, channels, to);
          last = from;
        }
      });
}

}  // namespace convlane
