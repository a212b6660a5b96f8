// Each thread goes down its rows of the output in bands. The hidden rows that a band needs are expanded into a ring,
// each row once; the depthwise convolution reads the ring and writes a band of its own; the projection reads that.
// Ring and band stay in the second-level cache.
#include "ops/depthwise_block.h"

#include <cstring>
#include <stdexcept>

#include "ops/parallel.h"

namespace convlane {
namespace {

// Floats of ring and band together: half of a 1 MB second-level cache. Not tuned.
constexpr int64_t kCacheFloats = 128 * 1024;

struct Bands {
  int64_t rows;   // output rows per band
  int64_t ring;   // hidden rows that the ring holds
  int64_t reach;  // hidden rows under one output row
};

Bands bands_of(const Conv2dDesc& d) {
  const int64_t reach = (d.kh() - 1) * d.window.dilation[0] + 1, stride = d.window.stride[0];
  const int64_t hidden_row = d.w * d.c, output_row = d.ow * d.o;
  const int64_t room = kCacheFloats - reach * hidden_row;
  const int64_t rows = std::clamp<int64_t>(room / (stride * hidden_row + output_row), 1, d.oh);
  return {rows, (rows - 1) * stride + reach, reach};
}

// A pointwise convolution of `pixels` dense pixels.
void pointwise(const PackedWeight& weight, const Epilogue& epilogue, const float* src, int64_t pixels,
               const float** rows, float* dst) {
  GemmArgs g{};
  for (int64_t i = 0; i < pixels; ++i) rows[i] = src + i * weight.shape()[1];
  g.rows = rows;
  g.rows_stride = g.m = pixels;
  g.n = g.dst_stride = weight.shape()[0];
  g.taps = 1;
  g.depth = weight.shape()[1];
  g.weight = weight.data();
  g.dst = dst;
  g.epilogue = epilogue;
  weight.kernels().gemm(g);
}

// One thread's work: its scratch, and how far the ring is filled.
class Worker {
 public:
  Worker(const DepthwiseBlock& block, const Bands& bands, const float* src, float* dst, const float* zeros, float* ring,
         float* band, const float** pointers)
      : b_(block), bands_(bands), src_(src), dst_(dst), zeros_(zeros), ring_(ring), band_(band), pointers_(pointers) {}

  // Output rows [begin, end) of image after image.
  void run(int64_t begin, int64_t end) {
    const int64_t oh = b_.depthwise.oh;
    while (begin < end) {
      const int64_t image = begin / oh, first = begin % oh;
      const int64_t count = std::min({bands_.rows, end - begin, oh - first});
      if (image != image_) filled_ = 0;
      image_ = image;
      run_band(first, count);
      begin += count;
    }
  }

 private:
  void run_band(int64_t first, int64_t count) {
    const Conv2dDesc& d = b_.depthwise;
    const int64_t top = first * d.window.stride[0] - d.window.top;
    const int64_t inputs = (count - 1) * d.window.stride[0] + bands_.reach;
    if (b_.expand != nullptr) expand(std::max<int64_t>(top, 0), std::min(top + inputs, d.h));
    for (int64_t y = 0; y < inputs; ++y) pointers_[y] = top + y < 0 || top + y >= d.h ? zeros_ : hidden_row(top + y);

    DepthwiseArgs k = depthwise_args(d, *b_.depthwise_weight, b_.depthwise_epilogue);
    k.rows = pointers_;
    k.out_rows = count;
    k.dst = band_;
    b_.depthwise_weight->kernels().depthwise(k);

    const int64_t pixel = (image_ * d.oh + first) * d.ow;
    Epilogue epilogue = b_.project_epilogue;
    if (epilogue.residual != nullptr) epilogue.residual += pixel * epilogue.residual_stride;
    pointwise(*b_.project, epilogue, band_, count * d.ow, pointers_, dst_ + pixel * b_.project->shape()[0]);
  }

  // Hidden rows [begin, end) into the ring, but for those already there.
  void expand(int64_t begin, int64_t end) {
    const Conv2dDesc& d = b_.depthwise;
    begin = std::max(begin, filled_);
    while (begin < end) {
      const int64_t count = std::min(end - begin, bands_.ring - begin % bands_.ring);
      const float* src = src_ + (image_ * d.h + begin) * d.w * b_.expand->shape()[1];
      pointwise(*b_.expand, b_.expand_epilogue, src, count * d.w, pointers_, ring_ + begin % bands_.ring * d.w * d.c);
      begin += count;
    }
    filled_ = end;
  }

  const float* hidden_row(int64_t row) const {
    const Conv2dDesc& d = b_.depthwise;
    if (b_.expand == nullptr) return src_ + (image_ * d.h + row) * d.w * d.c;
    return ring_ + row % bands_.ring * d.w * d.c;
  }

  const DepthwiseBlock& b_;
  const Bands& bands_;
  const float* src_;
  float* dst_;
  const float* zeros_;
  float* ring_;
  float* band_;
  const float** pointers_;
  int64_t image_ = -1, filled_ = 0;
};

}  // namespace

void check_depthwise_block(const DepthwiseBlock& b) {
  const auto is_pointwise = [](const PackedWeight* w) {
    return w->layout() == WeightLayout::panels && w->groups() == 1 && w->shape()[2] * w->shape()[3] == 1;
  };
  const Conv2dDesc& d = b.depthwise;
  if (d.c != d.o || d.groups != d.c || b.depthwise_weight->layout() != WeightLayout::depthwise)
    throw std::invalid_argument("depthwise block: the middle convolution is not depthwise with multiplier 1");
  if (!is_pointwise(b.project) || b.project->shape()[1] != d.o || (b.expand != nullptr && !is_pointwise(b.expand)) ||
      (b.expand != nullptr && b.expand->shape()[0] != d.c))
    throw std::invalid_argument("depthwise block: the pointwise weights do not fit");
}

void run_depthwise_block(const DepthwiseBlock& b, const float* src, float* dst) {
  const Conv2dDesc& d = b.depthwise;
  if (d.pixels() == 0) return;
  const int64_t pointwise_adds = d.n * d.h * d.w * d.c * (b.expand == nullptr ? 0 : b.expand->shape()[1]) +
                                 d.pixels() * d.o * b.project->shape()[0];
  const int threads = threads_for(d.multiply_adds() + pointwise_adds);
  const Bands bands = bands_of(d);
  const int64_t ring = b.expand == nullptr ? 0 : bands.ring * d.w * d.c, band = bands.rows * d.ow * d.o;
  const int64_t pixels = std::max(bands.ring * d.w, bands.rows * d.ow);
  const auto zeros = allocate_aligned<float>(d.w * d.c);
  std::memset(zeros.get(), 0, sizeof(float) * d.w * d.c);
  const auto scratch = allocate_aligned<float>(checked_mul(threads, round_up(ring, 16) + round_up(band, 16)));
  const auto pointers = allocate_aligned<const float*>(checked_mul(threads, pixels));
  parallel_for(d.n * d.oh, threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    float* memory = scratch.get() + thread * (round_up(ring, 16) + round_up(band, 16));
    Worker worker(b, bands, src, dst, zeros.get(), memory, memory + round_up(ring, 16),
                  pointers.get() + thread * pixels);
    worker.run(begin, end);
  });
}

}  // namespace convlane
