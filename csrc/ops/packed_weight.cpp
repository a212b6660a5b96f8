// Weights in the order that an algorithm reads them.
#include <algorithm>
#include <stdexcept>

#include "ops/conv2d.h"
#include "ops/parallel.h"

namespace convlane {
namespace {

constexpr int64_t kRows = 64;  // rows of a panel that are gathered at once, so that they stay in the first-level cache

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("conv2d: " + what); }

// Filters as columns: row k of dst, `width` numbers long, holds number first_k + k of `columns` filters from `first`
// on, times their factors, padded with zeros.
void gather_columns(const KernelTable& kernels, const ImageView& weight, const double* factor, int64_t first,
                    int64_t columns, int64_t first_k, int64_t count, float* dst, int64_t width) {
  const auto [o, i, kh, kw] = weight.shape;
  const auto [so, si, sh, sw] = weight.strides;
  const float* src = weight.data + first * so;
  const bool dense = (kw == 1 || sw == 1) && (kh == 1 || sh == kw) && (i == 1 || si == kh * kw);
  if (dense) {
    kernels.transpose(src + first_k, so, dst, width, columns, count);
  } else {
    for (int64_t k = 0; k < count; ++k) {
      const int64_t tap = (first_k + k) % (kh * kw);
      const float* row = src + (first_k + k) / (kh * kw) * si + tap / kw * sh + tap % kw * sw;
      for (int64_t column = 0; column < columns; ++column) dst[k * width + column] = row[column * so];
    }
  }
  for (int64_t k = 0; k < count; ++k) {
    float* row = dst + k * width;
    if (factor != nullptr)
      for (int64_t column = 0; column < columns; ++column)
        row[column] = static_cast<float>(row[column] * factor[first + column]);
    std::fill(row + columns, row + width, 0.0f);
  }
}

int64_t winograd_points(WeightLayout layout) {
  return layout == WeightLayout::winograd2 ? 16 : layout == WeightLayout::winograd4 ? 36 : 0;
}

}  // namespace

const char* layout_name(WeightLayout layout) {
  switch (layout) {
    case WeightLayout::plain:
      return "plain";
    case WeightLayout::depthwise:
      return "depthwise";
    case WeightLayout::winograd2:
      return "winograd2";
    case WeightLayout::winograd4:
      return "winograd4";
    case WeightLayout::filters:
      return "filters";
    case WeightLayout::grouped:
      return "grouped";
    case WeightLayout::panels:
      break;
  }
  return "panels";
}

PackedWeight::PackedWeight(const Shape4& shape, int64_t groups, WeightLayout layout, int64_t slices)
    : kernels_(&active_table()), shape_(shape), groups_(groups), layout_(layout), slices_(slices) {
  const auto [o, i, kh, kw] = shape;
  const int64_t points = winograd_points(layout);
  if (groups < 1 || o % groups != 0)
    refuse("the " + std::to_string(o) + " output channels of weight " + to_string(shape) +
           " cannot be divided into groups=" + std::to_string(groups));
  if (std::any_of(shape.begin(), shape.end(), [](int64_t size) { return size < 1; }))
    refuse("weight " + to_string(shape) + " is empty");
  if (points != 0 && (kh != 3 || kw != 3))
    refuse("Winograd's algorithm takes 3x3 filters, got weight " + to_string(shape));
  if (layout == WeightLayout::depthwise && i != 1) refuse("depthwise weights have one input channel per group");
  if (slices < 0 || (slices != 0 && kh % slices != 0))
    refuse("the " + std::to_string(kh) + " rows of weight " + to_string(shape) + " are not those of " +
           std::to_string(slices) + " slices");

  if (groups > 1 && (layout == WeightLayout::grouped || points != 0))
    together_ = groups_in_vector(shape_, groups, kernels_->lanes);
  if (layout == WeightLayout::grouped && together_ < 1)
    refuse("groups of weight " + to_string(shape) + " do not fit a vector");
  together_ = std::max<int64_t>(together_, 1);
  const int64_t columns = round_up(together_ * (o / groups), kernels_->lanes), taps = checked_mul(kh, kw);
  int64_t count = checked_mul(checked_mul(o, i), taps);
  if (layout == WeightLayout::panels || layout == WeightLayout::grouped || points != 0) {
    group_stride_ = checked_mul(checked_mul(points != 0 ? points : taps, i), columns);
    count = checked_mul(ceil_div(groups, together_), group_stride_);
  }
  bytes_ = checked_mul(count, sizeof(float));
}

PackedWeight::PackedWeight(const Shape4& shape, int64_t groups, WeightLayout layout, int64_t slices,
                           const float* packed, int64_t count, std::shared_ptr<const void> owner)
    : PackedWeight(shape, groups, layout, slices) {
  if (count != this->count())
    refuse("weight " + to_string(shape) + " takes " + std::to_string(this->count()) + " numbers packed, got " +
           std::to_string(count));
  if (reinterpret_cast<std::uintptr_t>(packed) % kAlignment != 0) refuse("packed weights must be aligned for vectors");
  owner_ = std::move(owner);
  data_ = packed;
}

PackedWeight::PackedWeight(const ImageView& weight, int64_t groups, WeightLayout layout, const double* factor,
                           bool flat, int64_t slices)
    : PackedWeight(weight.shape, groups, layout, slices) {
  if (flat && (layout != WeightLayout::panels || groups != 1)) refuse("only panels of one group can be flat");
  const auto [o, i, kh, kw] = weight.shape;
  const int64_t taps = kh * kw;
  memory_ = allocate_aligned<float>(count());
  data_ = memory_.get();
  float* dst = memory_.get();
  switch (layout) {
    case WeightLayout::plain:
      copy_to_nchw(weight, dst);
      for (int64_t k = 0; factor != nullptr && k < count(); ++k)
        dst[k] = static_cast<float>(dst[k] * factor[k / (i * taps)]);
      break;
    case WeightLayout::depthwise:  // [kh][kw][o] is the only group's one panel
      gather_columns(*kernels_, weight, factor, 0, o, 0, taps, dst, o);
      break;
    case WeightLayout::filters:
    case WeightLayout::grouped:
      pack_by_offsets(weight, factor);
      break;
    case WeightLayout::winograd2:
      pack_winograd(weight, factor, 2);
      break;
    case WeightLayout::winograd4:
      pack_winograd(weight, factor, 4);
      break;
    case WeightLayout::panels:
      pack_panels(weight, factor);
      break;
  }
  if (flat) shape_ = {o, i * taps, 1, 1};
}

template <class Each>
void PackedWeight::for_each_offset(const Each& each) const {
  const auto [o, i, kh, kw] = shape_;
  const int64_t taps = kh * kw, per_group = o / groups_, lanes = kernels_->lanes;
  for (int64_t filter = 0; filter < o; ++filter) {
    const int64_t group = filter / per_group;
    const int64_t lane = group % together_ * per_group + filter % per_group;
    for (int64_t k = 0; k < i; ++k) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t offset = layout_ == WeightLayout::filters
                                   ? (filter * taps + tap) * i + k
                                   : group / together_ * group_stride_ + (tap * i + k) * lanes + lane;
        each((filter * i + k) * taps + tap, offset);
      }
    }
  }
}

void PackedWeight::pack_by_offsets(const ImageView& weight, const double* factor) {
  const auto plain = allocate_aligned<float>(weight.count());
  copy_to_nchw(weight, plain.get());
  const int64_t length = weight.count() / shape_[0];
  std::fill_n(memory_.get(), count(), 0.0f);
  for_each_offset([&](int64_t index, int64_t offset) {
    const float number = plain[index];
    memory_[offset] = factor == nullptr ? number : static_cast<float>(number * factor[index / length]);
  });
}

void PackedWeight::pack_panels(const ImageView& weight, const double* factor) {
  const auto [o, i, kh, kw] = weight.shape;
  const int64_t per_group = o / groups_, nr = kernels_->gemm.nr, panels = ceil_div(per_group, nr), taps = kh * kw;
  parallel_for(groups_ * panels, threads_for(o * taps * i), [&, i = i](int64_t begin, int64_t end, int) noexcept {
    float rows[kRows * kMostPanelColumns];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / panels, first = task % panels * nr;
      const int64_t columns = std::min(nr, per_group - first), width = panel_width(columns);
      float* panel = memory_.get() + group * group_stride_ + first * taps * i;
      for (int64_t k0 = 0; k0 < taps * i; k0 += kRows) {
        const int64_t count = std::min(kRows, taps * i - k0);
        float* to = taps == 1 ? panel + k0 * width : rows;
        gather_columns(*kernels_, weight, factor, group * per_group + first, columns, k0, count, to, width);
        for (int64_t k = k0; taps != 1 && k < k0 + count; ++k)
          std::copy_n(rows + (k - k0) * width, width, panel + (k % taps * i + k / taps) * width);
      }
    }
  });
}

void PackedWeight::pack_winograd(const ImageView& weight, const double* factor, int m) {
  const int64_t o = weight.shape[0], i = weight.shape[1], nr = kernels_->gemm.nr, points = (m + 2) * (m + 2);
  // Groups side by side are gathered like the filters of one group, because their lanes are in that order.
  const int64_t filters = together_ * (o / groups_), panels = ceil_div(filters, nr);
  const int64_t tasks = ceil_div(groups_, together_) * panels;
  parallel_for(tasks, threads_for(o * i * points), [&](int64_t begin, int64_t end, int) noexcept {
    // 16 channels of filters are gathered at once, because they make whole blocks of transposes; 4 channels' points are
    // written at once, because the addresses of a single channel's all map to the same cache set.
    constexpr int64_t kGathered = 16, kWritten = 4;
    float rows[9 * kGathered * kMostPanelColumns], transformed[36 * kWritten * kMostPanelColumns];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / panels, skipped = task % panels * nr, first = group * filters + skipped;
      const int64_t columns = std::min({nr, filters - skipped, o - first}), width = panel_width(columns);
      float* panel = memory_.get() + group * group_stride_ + skipped * points * i;
      for (int64_t c = 0; c < i; c += kWritten) {
        const int64_t gathered = c % kGathered, count = std::min(kWritten, i - c);
        if (gathered == 0)
          gather_columns(*kernels_, weight, factor, first, columns, 9 * c, 9 * std::min(kGathered, i - c), rows, width);
        for (int64_t k = 0; k < count; ++k)
          kernels_->winograd_filters(m, rows + 9 * (gathered + k) * width, width, transformed + k * width,
                                     kWritten * width);
        for (int64_t xi = 0; xi < points; ++xi)
          std::copy_n(transformed + xi * kWritten * width, count * width, panel + (xi * i + c) * width);
      }
    }
  });
}

void PackedWeight::unpack(float* dst) const {
  const auto [o, i, kh, kw] = shape_;
  const int64_t taps = kh * kw, length = i * taps;
  if (!reversible()) refuse("weights packed for Winograd's algorithm cannot be unpacked");
  if (layout_ == WeightLayout::plain) {
    std::copy_n(data_, o * length, dst);
    return;
  }
  if (layout_ == WeightLayout::filters || layout_ == WeightLayout::grouped)
    return for_each_offset([&](int64_t index, int64_t offset) { dst[index] = data_[offset]; });
  if (layout_ == WeightLayout::depthwise) {
    kernels_->transpose(data_, o, dst, length, length, o);
    return;
  }
  const int64_t per_group = o / groups_, nr = kernels_->gemm.nr, panels = ceil_div(per_group, nr);
  parallel_for(groups_ * panels, threads_for(o * length), [&, i = i](int64_t begin, int64_t end, int) noexcept {
    float rows[kRows * kMostPanelColumns];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / panels, first = task % panels * nr;
      const int64_t columns = std::min(nr, per_group - first), width = panel_width(columns);
      const float* panel = data_ + group * group_stride_ + first * length;
      float* filters = dst + (group * per_group + first) * length;
      for (int64_t k0 = 0; k0 < length; k0 += kRows) {
        const int64_t count = std::min(kRows, length - k0);
        for (int64_t k = k0; k < k0 + count; ++k)
          std::copy_n(panel + (k % taps * i + k / taps) * width, width, rows + (k - k0) * width);
        kernels_->transpose(rows, width, filters + k0, length, count, columns);
      }
    }
  });
}

}  // namespace convlane
