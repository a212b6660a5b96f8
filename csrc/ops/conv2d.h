// Two-dimensional convolution: its description (Conv2dDesc), the ordered list of algorithms that can compute it, and
// weights packed for one of them.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/table.h"
#include "ops/view.h"
#include "ops/window.h"

namespace convlane {

struct Pool2dDesc;

struct Conv2dDesc {
  int64_t n, c, h, w;  // input
  int64_t o, oh, ow;   // output
  int64_t groups;      // channels fall into this many independent convolutions
  Window window;       // kernel, stride, dilation, padding
  int64_t c_per_group() const { return c / groups; }
  int64_t o_per_group() const { return o / groups; }
  int64_t kh() const { return window.kernel[0]; }
  int64_t kw() const { return window.kernel[1]; }
  int64_t taps() const { return kh() * kw(); }
  int64_t pixels() const { return n * oh * ow; }
  int64_t multiply_adds() const { return pixels() * o * c_per_group() * taps(); }
};

// Checks the channels of an input (N, C, ...) against those of a weight (O, C / groups, ...) of the same rank; error
// messages begin with `op`.
void check_channels(const std::string& op, const int64_t* input, const int64_t* weight, int rank, int64_t groups);

// Checks input (N, C, H, W) against weight (O, C / groups, KH, KW); std::invalid_argument says what does not fit. The
// window's kernel size is taken from the weight.
Conv2dDesc describe_conv2d(const Shape4& input, const Shape4& weight, Window window, int64_t groups);

enum class WeightLayout {
  plain,      // [o][i][kh][kw], as given
  depthwise,  // [kh][kw][o]
  winograd2,  // F(2x2, 3x3): [group or vector of groups][panel][xi < 16][i][column], transformed
  winograd4,  // F(4x4, 3x3): [group or vector of groups][panel][xi < 36][i][column]
  filters,    // [o][kh][kw][i]
  grouped,    // [vector of groups][kh][kw][i][lane]: a lane for each output of as many groups as fit into a vector
  panels      // [group][panel of nr columns][kh][kw][i][column], the last panel whole vectors wide
};

// The layout's name in saved files.
const char* layout_name(WeightLayout layout);

// A copy of the weights in the order that an algorithm reads them, for the instruction set active at packing.
class PackedWeight {
 public:
  // With factors, each output channel's weights are multiplied in float64 and rounded once. `flat` is for linear layers
  // that read channels-last images: the filters cover the image, and the shape of the packed weight is (O, KH * KW * I,
  // 1, 1). `slices` is given for filters of volumes, whose rows are those of that many slices.
  PackedWeight(const ImageView& weight, int64_t groups, WeightLayout layout, const double* factor = nullptr,
               bool flat = false, int64_t slices = 0);
  // Wraps `count` floats already packed by the constructor above for this instruction set, in memory that `owner` keeps
  // alive. std::invalid_argument if the count is wrong or the memory is not aligned for vectors.
  PackedWeight(const Shape4& shape, int64_t groups, WeightLayout layout, int64_t slices, const float* packed,
               int64_t count, std::shared_ptr<const void> owner);

  const KernelTable& kernels() const { return *kernels_; }
  const Shape4& shape() const { return shape_; }  // (O, C / groups, KH, KW)
  int64_t groups() const { return groups_; }
  int64_t slices() const { return slices_; }
  WeightLayout layout() const { return layout_; }
  const float* data() const { return data_; }
  // The number of groups side by side in a vector where the layout packs them so, else 1; floats between such vectors,
  // or between groups.
  int64_t together() const { return together_; }
  int64_t group_stride() const { return group_stride_; }
  int64_t bytes() const { return bytes_; }
  int64_t count() const { return bytes_ / static_cast<int64_t>(sizeof(float)); }
  const float* end() const { return data() + count(); }

  // Floats per row of the panel that starts `columns` columns before the end: the last panel is a whole number of
  // vectors wide.
  int64_t panel_width(int64_t columns) const { return kernels_->gemm.panel_width(columns); }

  // Whether the weights can be recovered bit for bit; Winograd's are transformed and rounded.
  bool reversible() const { return layout_ != WeightLayout::winograd2 && layout_ != WeightLayout::winograd4; }
  // Writes the weights, including their factors, in the order of shape().
  void unpack(float* dst) const;

 private:
  // Checks the arguments and computes the memory needed.
  PackedWeight(const Shape4& shape, int64_t groups, WeightLayout layout, int64_t slices);
  // Calls each(index in [o][i][kh][kw], offset in data) for the simple layouts.
  template <class Each>
  void for_each_offset(const Each& each) const;
  void pack_by_offsets(const ImageView& weight, const double* factor);
  void pack_panels(const ImageView& weight, const double* factor);
  void pack_winograd(const ImageView& weight, const double* factor, int m);

  const KernelTable* kernels_;
  Shape4 shape_;
  int64_t groups_;
  WeightLayout layout_;
  int64_t slices_;
  int64_t together_ = 1;
  int64_t group_stride_ = 0;
  int64_t bytes_ = 0;
  AlignedArray<float> memory_;         // empty if another object owns the memory
  std::shared_ptr<const void> owner_;  // keeps alive memory that this object does not own
  const float* data_ = nullptr;
};

struct Conv2dArgs {
  ImageView src;
  const PackedWeight* weight;
  Epilogue epilogue;   // residual is channels last, dense
  float* dst;          // channels last
  int64_t dst_stride;  // floats between its pixels: O, or more where dst is a slice of an image's channels
  int threads;         // at most
  // Only for algorithms that pool (winograd_pools): how the result is pooled before it is stored; dst is then the
  // pooled image.
  const Pool2dDesc* pool = nullptr;
};

// How much of a convolution's result exists before it is pooled.
enum class PooledFrom { image, bands, tiles };

struct Conv2dAlgorithm {
  const char* name;
  WeightLayout layout;
  bool any_source_layout;                                           // else src is first converted to channels last
  PooledFrom pooled_from;                                           // what it can pool from, if the pooling allows it
  std::string (*refusal)(const Conv2dDesc&);                        // empty when the algorithm can do it
  void (*reserve)(const Conv2dDesc&, const Conv2dArgs&, Scratch&);  // takes the scratch that `run` takes
  void (*run)(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
};

// Best first; "auto" takes the first one that does not refuse.
const std::vector<Conv2dAlgorithm>& conv2d_algorithms();

// By name; std::invalid_argument lists the names.
const Conv2dAlgorithm& find_conv2d_algorithm(const std::string& name);

// The layout of weights that serve `algorithm` or, for "auto", any input.
WeightLayout conv2d_weight_layout(const Shape4& weight, int64_t groups, const std::string& algorithm);

// `layout` limits the choice to algorithms that read weights packed that way.
const Conv2dAlgorithm& choose_conv2d(const Conv2dDesc& desc, const std::string& algorithm, WeightLayout layout);

// How many groups of a weight (O, C / groups, KH, KW) share a vector.
int64_t groups_in_vector(const Shape4& weight, int64_t groups, int64_t lanes);

// GroupedArgs::index for groups that share a vector: C / groups vectors.
void fill_group_index(const Conv2dDesc& desc, const PackedWeight& weight, std::int32_t* index);

// Every algorithm up to the chosen one with the reason it refused (empty for the chosen one).
std::vector<std::pair<std::string, std::string>> explain_conv2d(const Conv2dDesc& desc, const std::string& algorithm);

// The number of pairs of a tap and an output of one channel in which the tap meets a pixel of the image, not padding.
int64_t met_taps(const Conv2dDesc& desc);

// The algorithm that the static cost model expects to be fastest for one image of `desc`, if the weights may be packed
// for it; Winograd's only if `winograd` permits their rounding.
std::string cheapest_conv2d(const Conv2dDesc& desc, bool winograd);

// The same, limited to direct and Winograd's, all of which can compute `desc`.
std::string cheapest_product(const Conv2dDesc& desc);

// The algorithms worth timing for `desc`: the cheapest first, then others that may be faster.
std::vector<std::string> conv2d_candidates(const Conv2dDesc& desc, bool winograd);

void run_conv2d(const Conv2dAlgorithm& algorithm, const Conv2dDesc& desc, const Conv2dArgs& args, Scratch& scratch);

// Takes the scratch that run_conv2d takes with the same weight, pool and threads; nothing else in `args` matters.
// `any_layout`: the source may be other than channels last.
void reserve_conv2d(const Conv2dAlgorithm& algorithm, const Conv2dDesc& desc, const Conv2dArgs& args, bool any_layout,
                    Scratch& scratch);

// The same, allocating its own scratch.
void run_conv2d(const Conv2dAlgorithm& algorithm, const Conv2dDesc& desc, const Conv2dArgs& args);

// The algorithms, each in its own file.
std::string refuse_pointwise(const Conv2dDesc&);
std::string refuse_depthwise(const Conv2dDesc&);
std::string refuse_grouped(const Conv2dDesc&);
std::string refuse_narrow(const Conv2dDesc&);
std::string refuse_planes(const Conv2dDesc&);
std::string refuse_stem(const Conv2dDesc&);
std::string refuse_winograd(const Conv2dDesc&);
bool winograd_pools(const Pool2dDesc&);
void reserve_direct(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void reserve_depthwise(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void reserve_grouped(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void reserve_narrow(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void reserve_planes(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void reserve_stem(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void reserve_winograd(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void reserve_im2col(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void run_direct(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void run_depthwise(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void run_grouped(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void run_narrow(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void run_planes(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void run_stem(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void run_winograd(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void run_im2col(const Conv2dDesc&, const Conv2dArgs&, Scratch&);
void run_reference(const Conv2dDesc&, const Conv2dArgs&, Scratch&);

// One window of a dense channels-last image, [r][s][c], with zeros outside the image; `pixel` is the output's.
void unroll_window(const Conv2dDesc& desc, const float* src, int64_t pixel, float* dst);

// The kernel's arguments for a depthwise convolution, without its rows and dst.
DepthwiseArgs depthwise_args(const Conv2dDesc& desc, const PackedWeight& weight, const Epilogue& epilogue);

}  // namespace convlane
