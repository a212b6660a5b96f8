// The rows of the hidden image that a band of output rows needs are expanded into a ring, each row once; the depthwise
// convolution reads the ring. Ring and band stay in the second-level cache.
//
// Without squeeze-and-excitation each band is projected at once. With it the factors are known only after the last row,
// so the whole depthwise result is stored; its sums over each row are taken while the row is in the first-level cache.
// The factors then multiply either the weights of the projection or the rows that it reads, whichever are fewer.
//
// Each thread takes whole images as long as there is one for every thread. The threads that share an image split its
// rows or, where the maps are small and the weights many, its hidden channels, which are independent of each other
// until the projection. The factors' sums run over each row from left to right, and then over the rows, whichever
// thread has computed them.
#include "ops/depthwise_block.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "ops/parallel.h"
#include "runtime/machine.h"

namespace convlane {
namespace {

// Floats of ring and band together. A quarter and 7/8 of the second-level cache took equally long for EfficientNet-B0
// (Zen 5, 2026-11-21).
int64_t ring_and_band_floats() { return second_level_floats(2); }

// Floats of the pixels that are projected together: they stay in the cache beside the weights. The fraction is not
// tuned.
int64_t block_floats() { return second_level_floats(4); }

int64_t input_channels(const DepthwiseBlock& b) { return b.expand == nullptr ? b.depthwise.c : b.expand->shape()[1]; }
int64_t output_channels(const DepthwiseBlock& b) { return b.project->shape()[0]; }

// Whether the hidden image is larger than the projection's weights, so that these are multiplied by the factors. Must
// not depend on the threads: the product rounds differently.
bool scales_weights(const DepthwiseBlock& b) { return b.depthwise.oh * b.depthwise.ow > output_channels(b); }

// How an image is split among its threads.
struct Schedule {
  int threads;
  bool by_channels;  // the threads share hidden channels, else rows
  bool stores;       // the whole hidden image, else every band is projected at once
  int64_t rows;      // output rows per band
  int64_t ring;      // hidden rows that the ring holds
  int64_t reach;     // hidden rows needed for one output row
  int64_t width;     // hidden channels of a thread
  int64_t block;     // pixels projected together

  Schedule(const DepthwiseBlock& b, int count) : threads(count) {
    const Conv2dDesc& d = b.depthwise;
    const KernelTable& k = b.project->kernels();
    // Threads that share rows all read the weights; threads that share channels read each other's hidden image. With
    // two threads, blocks of 14x14 pixels and at least 160 input and output channels gain 2 to 25 % by sharing channels
    // (Zen 5, 2026-11-21).
    by_channels = threads > 1 && 4 * (input_channels(b) + output_channels(b)) > 3 * d.oh * d.ow;
    stores = by_channels || b.squeeze != nullptr;
    width = by_channels ? std::min(d.c, ceil_div(ceil_div(d.c, k.gemm.nr), threads) * k.gemm.nr) : d.c;
    const int64_t stride = d.window.stride[0], hidden_row = d.w * width, output_row = d.ow * width;
    reach = (d.kh() - 1) * d.window.dilation[0] + 1;
    const int64_t room = ring_and_band_floats() - checked_mul(reach, hidden_row);
    rows = std::clamp<int64_t>(room / checked_add(checked_mul(stride, hidden_row), output_row), 1, d.oh);
    ring = checked_add(checked_mul(rows - 1, stride), reach);
    block = std::clamp<int64_t>(block_floats() / (d.c * k.gemm.mr), 1, 16) * k.gemm.mr;
  }
};

// Offsets into the scratch of one image's threads.
class Layout {
 public:
  int64_t hidden, sums, means, squeezed, factors;  // of all threads
  int64_t ring, band, zeros, scaled;               // of each thread, from own(thread)
  int64_t floats;                                  // in all
  int64_t pointers;                                // for each thread

  Layout(const DepthwiseBlock& b, const Schedule& s) {
    const Conv2dDesc& d = b.depthwise;
    const bool excites = b.squeeze != nullptr;
    hidden = take(s.stores ? d.oh * d.ow * d.c : 0);
    sums = take(excites ? d.oh * d.c : 0);
    means = take(excites ? d.c : 0);
    squeezed = take(excites ? b.squeeze->shape()[0] : 0);
    factors = take(excites ? d.c : 0);
    first_ = std::exchange(end_, 0);
    ring = take(b.expand == nullptr ? 0 : checked_mul(s.ring, d.w * s.width));
    band = take(s.stores ? 0 : s.rows * d.ow * d.c);
    zeros = take(d.w * (b.expand == nullptr ? b.src_stride : s.width));
    const int64_t weights = b.project->bytes() / static_cast<int64_t>(sizeof(float));
    scaled = take(!excites ? 0 : scales_weights(b) ? weights : s.block * d.c);
    own_ = end_;
    floats = checked_add(first_, checked_mul(s.threads, own_));
    pointers = std::max({s.ring * d.w, s.rows * d.ow, s.block});
  }

  int64_t own(int thread) const { return first_ + thread * own_; }

 private:
  int64_t take(int64_t count) { return std::exchange(end_, end_ + round_up(count, 16)); }

  int64_t end_ = 0, first_, own_;
};

// Some columns of a pointwise convolution of `pixels` pixels; dst points to the first.
void pointwise(const PackedWeight& weight, const float* panels, const Epilogue& epilogue, Range columns,
               const float* src, int64_t src_stride, int64_t pixels, const float** rows, float* dst,
               int64_t dst_stride) {
  GemmArgs g{};
  for (int64_t i = 0; i < pixels; ++i) rows[i] = src + i * src_stride;
  g.rows = rows;
  g.rows_stride = g.m = pixels;
  g.n = columns.end - columns.begin;
  g.taps = 1;
  g.depth = weight.shape()[1];
  g.weight = panels + columns.begin * g.depth;
  g.weight_end = panels + weight.count();
  g.dst = dst;
  g.dst_stride = dst_stride;
  g.epilogue = epilogue;
  if (g.epilogue.bias != nullptr) g.epilogue.bias += columns.begin;
  if (g.epilogue.residual != nullptr) g.epilogue.residual += columns.begin;
  weight.kernels().gemm.run(g);
}

// One image after the other, by all threads of a schedule.
class Images {
 public:
  Images(const DepthwiseBlock& block, const Schedule& schedule, const Layout& layout, float* scratch,
         const float** pointers)
      : b_(block), s_(schedule), l_(layout), k_(block.project->kernels()), scratch_(scratch), pointers_(pointers) {}

  void run(const float* src, float* dst, const float* residual) noexcept {
    const Conv2dDesc& d = b_.depthwise;
    src_ = src;
    dst_ = dst;
    residual_ = residual;
    if (s_.by_channels) {
      parallel_for(ceil_div(d.c, k_.gemm.nr), s_.threads, [&](int64_t begin, int64_t end, int thread) noexcept {
        filter({0, d.oh}, columns_of(begin, end, d.c), thread);
      });
    } else {
      parallel_for(
          d.oh, s_.threads,
          [&](int64_t begin, int64_t end, int thread) noexcept { filter({begin, end}, {0, d.c}, thread); }, kWhole);
    }
    if (!s_.stores) return;
    if (b_.squeeze != nullptr) find_factors();
    // Rows are the better split as long as each thread has a tile of them: it then reads less of the hidden image.
    const int64_t pixels = d.oh * d.ow, out = output_channels(b_), panels = ceil_div(out, k_.gemm.nr);
    const int64_t row_parts = std::clamp<int64_t>(pixels / k_.gemm.mr, 1, s_.threads);
    const int64_t column_parts = std::min(s_.threads / row_parts, panels);
    parallel_for(row_parts * column_parts, s_.threads, [&](int64_t begin, int64_t end, int thread) noexcept {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t row = task / column_parts, column = task % column_parts;
        project_stored({pixels * row / row_parts, pixels * (row + 1) / row_parts},
                       columns_of(panels * column / column_parts, panels * (column + 1) / column_parts, out), thread);
      }
    });
  }

 private:
  Range columns_of(int64_t first_panel, int64_t end_panel, int64_t columns) const {
    return {first_panel * k_.gemm.nr, std::min(end_panel * k_.gemm.nr, columns)};
  }

  // Expands and filters output rows and channels.
  void filter(Range rows, Range channels, int thread) {
    const Conv2dDesc& d = b_.depthwise;
    const int64_t width = channels.end - channels.begin, stride = b_.expand == nullptr ? b_.src_stride : width;
    float* own = scratch_ + l_.own(thread);
    const float** pointers = pointers_ + thread * l_.pointers;
    std::memset(own + l_.zeros, 0, sizeof(float) * d.w * stride);
    const auto hidden_row = [&](int64_t row) -> const float* {
      if (row < 0 || row >= d.h) return own + l_.zeros;
      if (b_.expand == nullptr) return src_ + row * d.w * b_.src_stride + channels.begin;
      return own + l_.ring + row % s_.ring * d.w * width;
    };
    int64_t expanded = 0;  // rows before this one are in the ring, or no longer needed
    for (int64_t first = rows.begin; first < rows.end; first += s_.rows) {
      const int64_t count = std::min(s_.rows, rows.end - first);
      const int64_t top = first * d.window.stride[0] - d.window.top;
      const int64_t inputs = (count - 1) * d.window.stride[0] + s_.reach;
      if (b_.expand != nullptr) {
        expand({std::max({top, expanded, int64_t{0}}), std::min(top + inputs, d.h)}, channels, own + l_.ring, pointers);
        expanded = top + inputs;
      }
      for (int64_t y = 0; y < inputs; ++y) pointers[y] = hidden_row(top + y);
      DepthwiseArgs k = depthwise_args(d, *b_.depthwise_weight, b_.depthwise_epilogue);
      k.rows = pointers;
      k.zeros = own + l_.zeros;
      k.src_stride = stride;
      k.channels = width;
      k.weight += channels.begin;
      if (k.epilogue.bias != nullptr) k.epilogue.bias += channels.begin;
      k.out_rows = count;
      k.dst = s_.stores ? scratch_ + l_.hidden + first * d.ow * d.c + channels.begin : own + l_.band;
      if (b_.squeeze != nullptr) k.sums = scratch_ + l_.sums + first * d.c + channels.begin;
      k.sums_stride = d.c;
      k_.depthwise(k);
      if (!s_.stores)
        project({first * d.ow, (first + count) * d.ow}, {0, output_channels(b_)}, b_.project->data(), own + l_.band,
                pointers);
    }
  }

  // Computes hidden rows into the ring.
  void expand(Range rows, Range channels, float* ring, const float** pointers) {
    const Conv2dDesc& d = b_.depthwise;
    const int64_t width = channels.end - channels.begin, in = b_.src_stride;
    while (rows.begin < rows.end) {
      const int64_t slot = rows.begin % s_.ring, count = std::min(rows.end - rows.begin, s_.ring - slot);
      float* dst = ring + slot * d.w * width;
      pointwise(*b_.expand, b_.expand->data(), b_.expand_epilogue, channels, src_ + rows.begin * d.w * in, in,
                count * d.w, pointers, dst, width);
      rows.begin += count;
    }
  }

  void find_factors() {
    const Conv2dDesc& d = b_.depthwise;
    float *sums = scratch_ + l_.sums, *means = scratch_ + l_.means;
    for (int64_t y = 1; y < d.oh; ++y) k_.add(sums, sums + y * d.c, sums, d.c, Activation::none, 0);
    const auto pixels = static_cast<float>(d.oh * d.ow);
    for (int64_t c = 0; c < d.c; ++c) means[c] = sums[c] / pixels;
    small_layer(*b_.squeeze, b_.squeeze_epilogue, means, scratch_ + l_.squeezed);
    small_layer(*b_.excite, b_.excite_epilogue, scratch_ + l_.squeezed, scratch_ + l_.factors);
  }

  void small_layer(const PackedWeight& weight, const Epilogue& epilogue, const float* src, float* dst) {
    const int64_t out = weight.shape()[0], in = weight.shape()[1];
    // Each weight is read from memory for a single product, which takes as long as several products with cached
    // weights.
    const int threads = threads_for(4 * out * in, s_.threads);
    parallel_for(ceil_div(out, k_.gemm.nr), threads, [&](int64_t begin, int64_t end, int thread) noexcept {
      const Range columns = columns_of(begin, end, out);
      pointwise(weight, weight.data(), epilogue, columns, src, 0, 1, pointers_ + thread * l_.pointers,
                dst + columns.begin, 0);
    });
  }

  // Projects pixels of the stored hidden image to columns of the output.
  void project_stored(Range pixels, Range columns, int thread) {
    const int64_t c = b_.depthwise.c, count = pixels.end - pixels.begin, blocks = ceil_div(count, s_.block);
    const float *hidden = scratch_ + l_.hidden, *factors = scratch_ + l_.factors, *panels = b_.project->data();
    float* scaled = scratch_ + l_.own(thread) + l_.scaled;
    const bool excites = b_.squeeze != nullptr;
    if (excites && scales_weights(b_)) {
      for (int64_t column = columns.begin; column < columns.end; column += k_.gemm.nr)
        k_.scale_rows(panels + column * c, factors, scaled + column * c, c,
                      b_.project->panel_width(output_channels(b_) - column));
      panels = scaled;
    }
    for (int64_t i = 0; i < blocks; ++i) {
      const Range block{pixels.begin + count * i / blocks, pixels.begin + count * (i + 1) / blocks};
      const float* src = hidden + block.begin * c;
      if (excites && !scales_weights(b_)) {
        k_.scale(src, factors, scaled, block.end - block.begin, c);
        src = scaled;
      }
      project(block, columns, panels, src, pointers_ + thread * l_.pointers);
    }
  }

  void project(Range pixels, Range columns, const float* panels, const float* hidden, const float** pointers) {
    Epilogue epilogue = b_.project_epilogue;
    if (residual_ != nullptr) epilogue.residual = residual_ + pixels.begin * epilogue.residual_stride;
    const int64_t out = output_channels(b_);
    pointwise(*b_.project, panels, epilogue, columns, hidden, b_.depthwise.c, pixels.end - pixels.begin, pointers,
              dst_ + pixels.begin * out + columns.begin, out);
  }

  const DepthwiseBlock& b_;
  const Schedule& s_;
  const Layout& l_;
  const KernelTable& k_;
  float* scratch_;
  const float** pointers_;
  const float *src_, *residual_;
  float* dst_;
};

// The number of threads that the work justifies, at most `limit`.
int worthwhile_threads(const DepthwiseBlock& b, int limit) {
  const Conv2dDesc& d = b.depthwise;
  const int64_t expanded = b.expand == nullptr ? 0 : d.n * d.h * d.w * d.c * input_channels(b);
  return threads_for(expanded + d.multiply_adds() + d.pixels() * d.c * output_channels(b), limit);
}

// The scratch for images that take one thread each, and for those that share all threads.
struct Split {
  int threads;
  int64_t apart;  // images that take one thread each
  Schedule one, all;
  Layout one_layout, all_layout;
  float* floats;
  const float** pointers;

  Split(const DepthwiseBlock& b, int limit, Scratch& scratch)
      : threads(worthwhile_threads(b, limit)),
        apart(b.depthwise.n / threads * threads),
        one(b, 1),
        all(b, threads),
        one_layout(b, one),
        all_layout(b, all),
        floats(
            scratch.take<float>(std::max(apart > 0 ? checked_mul(threads, one_layout.floats) : 0, all_layout.floats))),
        pointers(scratch.take<const float*>(checked_mul(threads, std::max(one_layout.pointers, all_layout.pointers)))) {
  }
};

}  // namespace

void check_depthwise_block(const DepthwiseBlock& b) {
  const auto is_pointwise = [](const PackedWeight* w, int64_t in) {
    return w->layout() == WeightLayout::panels && w->groups() == 1 && w->shape()[2] * w->shape()[3] == 1 &&
           w->shape()[1] == in;
  };
  const Conv2dDesc& d = b.depthwise;
  if (d.c != d.o || d.groups != d.c || b.depthwise_weight->layout() != WeightLayout::depthwise)
    throw std::invalid_argument("depthwise block: the middle convolution must be depthwise with multiplier 1");
  if (!is_pointwise(b.project, d.c) || (b.expand != nullptr && !is_pointwise(b.expand, input_channels(b))) ||
      (b.expand != nullptr && b.expand->shape()[0] != d.c))
    throw std::invalid_argument("depthwise block: the pointwise weights do not fit");
  if ((b.squeeze == nullptr) != (b.excite == nullptr))
    throw std::invalid_argument("depthwise block: squeeze and excite must be given together");
  if (b.squeeze != nullptr &&
      (!is_pointwise(b.squeeze, d.c) || !is_pointwise(b.excite, b.squeeze->shape()[0]) || b.excite->shape()[0] != d.c))
    throw std::invalid_argument("depthwise block: the weights of squeeze-and-excitation do not fit");
}

void reserve_depthwise_block(const DepthwiseBlock& b, int threads, Scratch& scratch) { Split(b, threads, scratch); }

void run_depthwise_block(const DepthwiseBlock& b, const float* src, float* dst, int threads, Scratch& scratch) {
  const Conv2dDesc& d = b.depthwise;
  if (d.pixels() == 0) return;
  const Split s(b, threads, scratch);
  const auto run = [&](Images& images, int64_t i) noexcept {
    const Epilogue& e = b.project_epilogue;
    const int64_t pixel = i * d.oh * d.ow;
    images.run(src + i * d.h * d.w * b.src_stride, dst + pixel * output_channels(b),
               e.residual == nullptr ? nullptr : e.residual + pixel * e.residual_stride);
  };
  parallel_for(s.apart, s.threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    Images images(b, s.one, s.one_layout, s.floats + thread * s.one_layout.floats,
                  s.pointers + thread * s.one_layout.pointers);
    for (int64_t i = begin; i < end; ++i) run(images, i);
  });
  Images images(b, s.all, s.all_layout, s.floats, s.pointers);
  for (int64_t i = s.apart; i < d.n; ++i) run(images, i);
}

}  // namespace convlane
