// How operations see arrays: a pointer, sizes and strides in floats. Images are indexed N, C, H, W whatever their
// layout in memory; "channels last" means the strides of a dense N, H, W, C buffer.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "runtime/buffer.h"

namespace convlane {

using std::int64_t;
using Shape4 = std::array<int64_t, 4>;
using Pair = std::array<int64_t, 2>;  // height, width

std::string to_string(const int64_t* sizes, int count);  // "(1, 2, 3)", "(1,)"
template <std::size_t Count>
std::string to_string(const std::array<int64_t, Count>& sizes) {
  return to_string(sizes.data(), static_cast<int>(Count));
}

struct ImageView {
  const float* data;
  Shape4 shape;    // N, C, H, W
  Shape4 strides;  // floats; any sign, 0 where broadcast

  int64_t count() const { return shape[0] * shape[1] * shape[2] * shape[3]; }
  // 0 when there are no channels: a view without memory may have any height and width, too many to loop over.
  int64_t pixels() const { return shape[1] == 0 ? 0 : shape[0] * shape[2] * shape[3]; }
  bool is_channels_last() const;
};

// A dense channels-last buffer of `shape`.
inline ImageView channels_last_view(const float* data, const Shape4& shape) {
  const int64_t c = shape[1], w = shape[3];
  return {data, shape, {shape[2] * w * c, 1, w * c, c}};
}

// The view itself when it is already channels last, else a converted copy that this object owns.
class ChannelsLast {
 public:
  explicit ChannelsLast(const ImageView& src);
  const ImageView& view() const { return view_; }

 private:
  AlignedArray<float> copy_;
  ImageView view_;
};

// Writes a view to an image with any strides.
void copy_image(const ImageView& src, float* dst, const Shape4& strides);

// Writes any view into a dense channels-last or NCHW buffer.
void copy_to_channels_last(const ImageView& src, float* dst);
void copy_to_nchw(const ImageView& src, float* dst);

// Where to read the view as a dense channels-last buffer: its own memory when it is one, else the copy written to
// `dst`, on which an element-wise operation then works in place.
const float* channels_last_or_into(const ImageView& src, float* dst);

}  // namespace convlane
