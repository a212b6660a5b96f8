// Convolution of volumes (N, C, D, H, W). They are channels last in memory, so that each depth slice is an image, and
// together they form one image of D * H rows, (N, C, D * H, W), which is how volumes are passed here.
//
// The slices of the kernel count as further rows of it: weights (O, C / groups, KD, KH, KW) are packed as filters (O, C
// / groups, KD * KH, KW).
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
  Conv2dDesc slice;                               // one depth slice with one slice of the kernel
  int64_t d, od;                                  // depth slices of input and output
  int64_t kernel, stride, dilation, front, back;  // along the depth
  int64_t taps() const { return kernel * slice.taps(); }
  int64_t voxels() const { return slice.n * od * slice.oh * slice.ow; }
  int64_t multiply_adds() const { return voxels() * slice.o * slice.c_per_group() * taps(); }
  Shape4 source() const { return {slice.n, slice.c, d * slice.h, slice.w}; }
  Shape4 result() const { return {slice.n, slice.o, od * slice.oh, slice.ow}; }
  Shape4 filters() const { return {slice.o, slice.c_per_group(), kernel * slice.kh(), slice.kw()}; }
};

// Checks input against weight (O, C / groups, KD, KH, KW); std::invalid_argument says what does not fit.
Conv3dDesc describe_conv3d(const Shape5& input, const Shape5& weight, const Triple& stride, const Faces& padding,
                           const Triple& dilation, int64_t groups);

// The equivalent convolution of images, with the same weights, bits and memory: a kernel of one slice sees the slices
// as images, one with a single row and column sees the pixels of a slice as a row. Nothing if there is none.
std::optional<Conv2dDesc> as_images(const Conv3dDesc& desc);

// The algorithms for volumes whose convolution is not one of images, best first.
enum class Conv3dWay { depthwise, stem, winograd4, winograd2, direct };

// How a convolution of volumes is computed: as one of images where it is equivalent to one, else by an algorithm for
// volumes.
struct Conv3dChoice {
  Conv3dDesc desc;
  std::optional<Conv2dDesc> images;
  const Conv2dAlgorithm* algorithm;  // of the images, or of the slices for Winograd's algorithms; else null
  Conv3dWay way;                     // if it is not computed as one of images
};

// The algorithm expected to be fastest, by which the weights are to be packed: one of images where the convolution is
// one of images, else the name of an algorithm for volumes. For Winograd's each slice of the kernel is packed by
// itself, for run_conv3d_slices.
std::string cheapest_conv3d(const Conv3dDesc& desc, bool winograd);

// The algorithms worth timing, the one expected to be fastest first.
std::vector<std::string> conv3d_candidates(const Conv3dDesc& desc, bool winograd);

// As explain_conv2d.
std::vector<std::pair<std::string, std::string>> explain_conv3d(const Conv3dDesc& desc, const std::string& algorithm);

// `layout` is that of the weights. "auto" takes Winograd's algorithms only if the weights are packed for them.
Conv3dChoice choose_conv3d(const Conv3dDesc& desc, const std::string& algorithm, WeightLayout layout);

// Whether the source is read in its own layout; else it is first converted to channels last.
bool reads_any_layout(const Conv3dChoice& choice);

// As reserve_conv2d and run_conv2d, with source, residual and result as images of D * H rows. Nothing is pooled.
void reserve_conv3d(const Conv3dChoice& choice, const Conv2dArgs& args, bool any_layout, Scratch& scratch);
void run_conv3d(const Conv3dChoice& choice, const Conv2dArgs& args, Scratch& scratch);
void run_conv3d(const Conv3dChoice& choice, const Conv2dArgs& args);

// Whether it is a sum of convolutions of slices: 3x3 filters in one group, and a stride of 1.
bool sums_slices(const Conv3dDesc& desc);

// The sum of convolutions of images by one of Winograd's algorithms, in the order of the kernel's slices, each with its
// own weight; the one in `args` stands for all of them. The source is channels last.
void reserve_conv3d_slices(const Conv3dDesc& desc, const Conv2dAlgorithm& algorithm, const Conv2dArgs& args,
                           Scratch& scratch);
void run_conv3d_slices(const Conv3dDesc& desc, const Conv2dAlgorithm& algorithm, const PackedWeight* const* weights,
                       const Conv2dArgs& args, Scratch& scratch);
// The same, allocating its own scratch, and with a source of any layout.
void run_conv3d_slices(const Conv3dDesc& desc, const Conv2dAlgorithm& algorithm, const PackedWeight* const* weights,
                       const Conv2dArgs& args);

}  // namespace convlane
