// Convolution of volumes (N, C, D, H, W). They are channels last in memory, so that each depth slice is an image, and
// all of them are one image of D * H rows: that is how volumes are passed here, (N, C, D * H, W).
//
// The slices of the kernel are counted as further rows of it: weights (O, C / groups, KD, KH, KW) are packed as filters
// (O, C / groups, KD * KH, KW).
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ops/conv2d.h"

namespace convlane {

using Shape5 = std::array<int64_t, 5>;  // N, C, D, H, W
using Triple = std::array<int64_t, 3>;  // depth, height, width
using Faces = std::array<int64_t, 6>;   // front, back, top, bottom, left, right

struct Conv3dDesc {
  Conv2dDesc slice;                               // of one depth slice with one slice of the kernel
  int64_t d, od;                                  // depth slices of input and output
  int64_t kernel, stride, dilation, front, back;  // along the depth
  int64_t taps() const { return kernel * slice.taps(); }
  int64_t voxels() const { return slice.n * od * slice.oh * slice.ow; }
  int64_t multiply_adds() const { return voxels() * slice.o * slice.c_per_group() * taps(); }
  Shape4 source() const { return {slice.n, slice.c, d * slice.h, slice.w}; }
  Shape4 result() const { return {slice.n, slice.o, od * slice.oh, slice.ow}; }
  Shape4 filters() const { return {slice.o, slice.c_per_group(), kernel * slice.kh(), slice.kw()}; }
};

// Checks input against weight (O, C / groups, KD, KH, KW); std::invalid_argument tells what does not fit.
Conv3dDesc describe_conv3d(const Shape5& input, const Shape5& weight, const Triple& stride, const Faces& padding,
                           const Triple& dilation, int64_t groups);

// The same as a convolution of images, with the same weights, bits and memory: a kernel of one slice sees the slices as
// images, one of a single row and column sees the pixels of a slice as a row. Nothing where there is no such.
std::optional<Conv2dDesc> as_images(const Conv3dDesc& desc);

// The ways of convolving volumes where that is no convolution of images, best first.
enum class Conv3dWay { depthwise, stem, winograd4, winograd2, direct };

// How a convolution of volumes is done: as one of images where it is one, else in a way of its own.
struct Conv3dChoice {
  Conv3dDesc desc;
  std::optional<Conv2dDesc> images;
  const Conv2dAlgorithm* algorithm;  // of the images, or of the slices for Winograd's ways; else null
  Conv3dWay way;                     // where it is not one of images
};

// The algorithm expected to be fastest, which tells how the weights are to be packed: one of images where the
// convolution is one of images, else the name of a way. For Winograd's each slice of the kernel is packed by itself,
// for run_conv3d_slices.
std::string cheapest_conv3d(const Conv3dDesc& desc, bool winograd);

// What is worth timing, the one expected to be fastest first.
std::vector<std::string> conv3d_candidates(const Conv3dDesc& desc, bool winograd);

// As explain_conv2d.
std::vector<std::pair<std::string, std::string>> explain_conv3d(const Conv3dDesc& desc, const std::string& algorithm);

// `layout` is that of the weights. For "auto", Winograd's ways only where the weights are packed for them.
Conv3dChoice choose_conv3d(const Conv3dDesc& desc, const std::string& algorithm, WeightLayout layout);

// Whether the source is read as it lies in memory; else it is converted to channels last first.
bool reads_any_layout(const Conv3dChoice& choice);

// As reserve_conv2d and run_conv2d, with source, residual and result as images of D * H rows. Nothing is pooled.
void reserve_conv3d(const Conv3dChoice& choice, const Conv2dArgs& args, bool any_layout, Scratch& scratch);
void run_conv3d(const Conv3dChoice& choice, const Conv2dArgs& args, Scratch& scratch);
void run_conv3d(const Conv3dChoice& choice, const Conv2dArgs& args);

// Whether it is such a sum: by 3x3 filters in one group, and a stride of 1.
bool sums_slices(const Conv3dDesc& desc);

// The sum of convolutions of images by one of Winograd's algorithms, in the order of the kernel's slices, of which each
// has a weight: that in `args` only tells about all of them. The source is channels last.
void reserve_conv3d_slices(const Conv3dDesc& desc, const Conv2dAlgorithm& algorithm, const Conv2dArgs& args,
                           Scratch& scratch);
void run_conv3d_slices(const Conv3dDesc& desc, const Conv2dAlgorithm& algorithm, const PackedWeight* const* weights,
                       const Conv2dArgs& args, Scratch& scratch);
// The same with scratch of its own, and with a source that lies in any order.
void run_conv3d_slices(const Conv3dDesc& desc, const Conv2dAlgorithm& algorithm, const PackedWeight* const* weights,
                       const Conv2dArgs& args);

}  // namespace convlane
