// Transposed convolution: the gradient of a convolution's input, with a weight packed for it and an epilogue.
//
// It is described by the convolution whose input gradient it is: it reads that convolution's output shape, (N, O, OH,
// OW), and writes its input shape, (N, C, H, W).
#pragma once

#include <string>
#include <vector>

#include "ops/conv2d.h"

namespace convlane {

// Checks input (N, O, OH, OW) against weight (O, C / groups, KH, KW); std::invalid_argument says what does not fit. The
// window's kernel size is taken from the weight. Output padding adds rows and columns at the end of the output.
Conv2dDesc describe_conv_transpose2d(const Shape4& input, const Shape4& weight, Window window,
                                     const Pair& output_padding, int64_t groups);

enum class TransposedWay {
  convolution,  // stride 1: a convolution, by any of its algorithms
  windows,      // a matrix product gives what each input adds to its whole window
  phases        // outputs of one residue modulo the stride are a convolution with stride 1 by a subset of the taps
};

// A weight in the order that one of the algorithms reads it, for the instruction set active at packing.
class TransposedWeight {
 public:
  // `weight` is (O, C / groups, KH, KW) with any strides. The algorithm is "windows", "phases" or, with stride 1, one
  // of conv2d's; "auto" serves any input.
  TransposedWeight(const ImageView& weight, const Pair& stride, const Pair& dilation, int64_t groups,
                   const std::string& algorithm);

  const KernelTable& kernels() const { return *kernels_; }
  const Shape4& shape() const { return shape_; }
  const Pair& stride() const { return stride_; }
  const Pair& dilation() const { return dilation_; }
  int64_t groups() const { return groups_; }
  int64_t bytes() const;

  bool reversible() const;
  // The weight again, bit for bit, as (O, C / groups, KH, KW); std::invalid_argument if it is not reversible.
  void unpack(float* dst) const;

  TransposedWay way() const { return way_; }
  const std::string& algorithm() const { return algorithm_; }  // of the convolution that is one
  bool fits(const Conv2dDesc& desc) const;

  // The weight of two phases, by their first taps. The other algorithms have a single part.
  const PackedWeight& part(int64_t y = 0, int64_t x = 0) const {
    return parts_[static_cast<std::size_t>(y * across_ + x)];
  }

 private:
  void pack_phases(const ImageView& weight, const std::string& algorithm);
  void pack_windows(const ImageView& weight);

  const KernelTable* kernels_;
  Shape4 shape_;
  Pair stride_, dilation_;
  int64_t groups_;
  TransposedWay way_;
  std::string algorithm_;
  int64_t across_ = 1;  // phases of the columns that have taps
  std::vector<PackedWeight> parts_;
};

struct ConvTranspose2dArgs {
  ImageView src;
  const TransposedWeight* weight;
  Epilogue epilogue;   // without residual
  float* dst;          // channels last
  int64_t dst_stride;  // floats between its pixels: C, or more where dst is a slice of an image's channels
  int threads;         // at most
};

// The algorithm expected to be fastest for one image of `desc`; Winograd's only if `winograd` permits their rounding.
std::string cheapest_conv_transpose2d(const Conv2dDesc& desc, bool winograd);

void run_conv_transpose2d(const Conv2dDesc& desc, const ConvTranspose2dArgs& args, Scratch& scratch);

// Takes the scratch that run_conv_transpose2d takes with the same weight and threads. `any_layout`: the source may be
// other than channels last.
void reserve_conv_transpose2d(const Conv2dDesc& desc, const ConvTranspose2dArgs& args, bool any_layout,
                              Scratch& scratch);

// The same, allocating its own scratch.
void run_conv_transpose2d(const Conv2dDesc& desc, const ConvTranspose2dArgs& args);

// The outputs of one residue along one dimension.
struct Phase {
  int64_t first, step, count;  // their indices
  int64_t taps;                // how many of the kernel's taps contribute to them; possibly none
  int64_t tap, tap_step;       // the first of these taps, and the distance between two
  int64_t dilation, before;    // of the convolution over the source; negative padding crops
};

Phase phase_of(const Conv2dDesc& desc, int dimension, int64_t first);

// The convolution of the source that gives the outputs of two phases. Padding at the end only makes its size come out.
Conv2dDesc phase_conv2d(const Conv2dDesc& desc, const Phase& y, const Phase& x);

// Two of the algorithms, each in its own file; src is channels last.
void reserve_transposed_phases(const Conv2dDesc&, const ConvTranspose2dArgs&, Scratch&);
void run_transposed_phases(const Conv2dDesc&, const ConvTranspose2dArgs&, Scratch&);
void reserve_transposed_windows(const Conv2dDesc&, const ConvTranspose2dArgs&, Scratch&);
void run_transposed_windows(const Conv2dDesc&, const ConvTranspose2dArgs&, Scratch&);

}  // namespace convlane
