// Correlation of pictures (H, W, C) with a kernel that all channels share.
#pragma once

#include <cstdint>
#include <vector>

namespace convlane {

using std::int64_t;

struct FilterDesc {
  int64_t height, width, channels;  // of the picture
  // The kernel, (kernel_h, kernel_w); if `second` is not empty, the first has one column, and `second` is the row after
  // it.
  int64_t kernel_h, kernel_w;
  std::vector<double> first, second;
  // Where the pixels of the padded picture come from: the source row of each row; the source column of each column
  // added before or after the picture. -1 means the fill value.
  std::vector<int64_t> rows, before, after;
  double fill;

  int64_t window_width() const { return second.empty() ? kernel_w : static_cast<int64_t>(second.size()); }
  int64_t padded_width() const { return width + static_cast<int64_t>(before.size() + after.size()); }
  int64_t out_height() const { return static_cast<int64_t>(rows.size()) - kernel_h + 1; }
  int64_t out_width() const { return padded_width() - window_width() + 1; }
};

void check_filter(const FilterDesc& desc);  // ValueError

// Bytes are summed in float32, or in double where that would round too much, and the result is truncated; T is uint8_t,
// float or double. Both pictures are dense.
template <class T>
void run_filter(const FilterDesc& desc, const T* src, T* dst, int threads);

}  // namespace convlane
