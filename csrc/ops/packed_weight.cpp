// Weights in the order in which an algorithm reads them.
#include <cstring>
#include <stdexcept>

#include "ops/conv2d.h"
#include "ops/parallel.h"

namespace convlane {
namespace {

constexpr int64_t kWidest = 64;  // columns of a panel, at most

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("conv2d: " + what); }

// The rows of G for the points 0, 1, -1, infinity (m = 2) and 0, +-sqrt(1/2), +-sqrt(2), infinity (m = 4):
// G[j][k] = a_j^k / prod over l != j of (a_j - a_l), scaled reciprocally to the input transform's rows.
constexpr double kRoot = 1.41421356237309504880;
constexpr double kFilterTransform2[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
constexpr double kFilterTransform4[6][3] = {{1, 0, 0},
                                            {-2.0 / 3, -kRoot / 3, -1.0 / 3},
                                            {-2.0 / 3, kRoot / 3, -1.0 / 3},
                                            {1.0 / 6, kRoot / 6, 1.0 / 3},
                                            {1.0 / 6, -kRoot / 6, 1.0 / 3},
                                            {0, 0, 1}};

// dst[j] = sum over k of G[j][k] * src[k]; rows of `width` numbers, `src_step` and `dst_step` rows apart.
void multiply_rows(const double (*g)[3], int n, const double* src, int64_t src_step, double* dst, int64_t dst_step,
                   int64_t width) {
  for (int j = 0; j < n; ++j)
    for (int64_t i = 0; i < width; ++i)
      dst[j * dst_step * width + i] =
          g[j][0] * src[i] + g[j][1] * src[src_step * width + i] + g[j][2] * src[2 * src_step * width + i];
}

// U = G g G^T of `width` filters side by side, [3][3][width] to [m + 2][m + 2][width]. In float64, so that the weights
// are rounded once.
void transform_filters(int m, const double* filters, double* dst, int64_t width) {
  const double (*g)[3] = m == 2 ? kFilterTransform2 : kFilterTransform4;
  const int n = m + 2;
  double rows[6 * 3 * kWidest];  // G g
  for (int s = 0; s < 3; ++s) multiply_rows(g, n, filters + s * width, 3, rows + s * width, 3, width);
  for (int i = 0; i < n; ++i) multiply_rows(g, n, rows + i * 3 * width, 1, dst + i * n * width, 1, width);
}

int64_t winograd_points(WeightLayout layout) {
  return layout == WeightLayout::winograd2 ? 16 : layout == WeightLayout::winograd4 ? 36 : 0;
}

}  // namespace

PackedWeight::PackedWeight(const ImageView& weight, int64_t groups, WeightLayout layout)
    : kernels_(&active_table()), shape_(weight.shape), groups_(groups), layout_(layout) {
  const auto [o, i, kh, kw] = weight.shape;
  const int64_t points = winograd_points(layout);
  if (groups < 1 || o % groups != 0)
    refuse("the " + std::to_string(o) + " output channels of weight " + to_string(weight.shape) +
           " cannot be divided into groups=" + std::to_string(groups));
  if (weight.count() == 0) refuse("weight " + to_string(weight.shape) + " is empty");
  if (points != 0 && (groups != 1 || kh != 3 || kw != 3))
    refuse("Winograd's algorithm takes 3x3 filters in one group, got weight " + to_string(weight.shape));
  if (layout == WeightLayout::depthwise && i != 1) refuse("depthwise weights have one input channel per group");

  const int64_t columns = round_up(o / groups, kernels_->lanes);
  int64_t count = weight.count();
  if (layout == WeightLayout::panels) {
    group_stride_ = checked_mul(checked_mul(kh * kw, i), columns);
    count = checked_mul(groups, group_stride_);
  }
  if (points != 0) count = checked_mul(checked_mul(points, i), columns);
  bytes_ = checked_mul(count, sizeof(float));
  data_ = allocate_aligned<float>(count);
  switch (layout) {
    case WeightLayout::plain:
      copy_to_nchw(weight, data_.get());
      break;
    case WeightLayout::depthwise:
      // (O, 1, KH, KW) seen as one image of O channels: channels last is what the kernel reads.
      copy_to_channels_last({weight.data, {1, o, kh, kw}, {0, weight.strides[0], weight.strides[2], weight.strides[3]}},
                            data_.get());
      break;
    case WeightLayout::winograd2:
      pack_winograd(weight, 2);
      break;
    case WeightLayout::winograd4:
      pack_winograd(weight, 4);
      break;
    case WeightLayout::panels:
      pack_panels(weight);
      break;
  }
}

void PackedWeight::pack_panels(const ImageView& weight) {
  const auto [o, i, kh, kw] = weight.shape;
  const int64_t per_group = o / groups_, nr = kernels_->nr, panels = ceil_div(per_group, nr), taps = kh * kw;
  parallel_for(groups_ * panels, threads_for(o * taps * i),
               [&, i = i, kw = kw](int64_t begin, int64_t end, int) noexcept {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t group = task / panels, first = task % panels * nr;
                   const int64_t columns = std::min(nr, per_group - first), width = panel_width(columns);
                   const float* from = weight.data + (group * per_group + first) * weight.strides[0];
                   float* panel = data_.get() + group * group_stride_ + first * taps * i;
                   for (int64_t c = 0; c < i; ++c) {
                     for (int64_t tap = 0; tap < taps; ++tap) {
                       const float* row =
                           from + c * weight.strides[1] + tap / kw * weight.strides[2] + tap % kw * weight.strides[3];
                       float* to = panel + (tap * i + c) * width;
                       for (int64_t column = 0; column < columns; ++column)
                         to[column] = row[column * weight.strides[0]];
                       for (int64_t column = columns; column < width; ++column) to[column] = 0;
                     }
                   }
                 }
               });
}

void PackedWeight::pack_winograd(const ImageView& weight, int m) {
  const int64_t o = weight.shape[0], i = weight.shape[1], nr = kernels_->nr, points = (m + 2) * (m + 2);
  parallel_for(ceil_div(o, nr), threads_for(o * i * points), [&](int64_t begin, int64_t end, int) noexcept {
    double filters[9 * kWidest], transformed[36 * kWidest];
    for (int64_t p = begin; p < end; ++p) {
      const int64_t columns = std::min(nr, o - p * nr), width = panel_width(columns);
      float* panel = data_.get() + p * nr * points * i;
      for (int64_t c = 0; c < i; ++c) {
        const float* from = weight.data + p * nr * weight.strides[0] + c * weight.strides[1];
        for (int64_t tap = 0; tap < 9; ++tap)
          for (int64_t column = 0; column < width; ++column)
            filters[tap * width + column] =
                column < columns
                    ? from[column * weight.strides[0] + tap / 3 * weight.strides[2] + tap % 3 * weight.strides[3]]
                    : 0;
        transform_filters(m, filters, transformed, width);
        for (int64_t xi = 0; xi < points; ++xi)
          for (int64_t column = 0; column < width; ++column)
            panel[(xi * i + c) * width + column] = static_cast<float>(transformed[xi * width + column]);
      }
    }
  });
}

}  // namespace convlane
