// A convolution and the pooling of its result, in one of three ways:
//   - The stem runs in bands. Each thread goes down its rows of the pooled image; the rows of the convolution under a
//     band of them are computed into a buffer in the second-level cache, and those that the next band shares are kept.
//     Where the parts of two threads meet, both compute them.
//   - Winograd's tiles of the output hold whole windows of 2x2, so it pools tile by tile (conv2d_winograd.cpp).
//   - Anything else computes the image and then pools it.
#include "ops/conv2d_pool.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "ops/conv2d_stem.h"
#include "ops/parallel.h"
#include "runtime/machine.h"

namespace convlane {
namespace {

// Floats of the buffer, beside the stem's own scratch. The fraction is not tuned.
int64_t buffer_floats() { return second_level_floats(4); }

struct Bands {
  int64_t rows;    // of the pooled image, at most
  int64_t buffer;  // rows of the convolution under them
};

Bands bands_of(const Pool2dDesc& p) {
  const int64_t row = p.input[1] * p.input[3], kernel = p.window.kernel[0], stride = p.window.stride[0];
  const int64_t rows = std::clamp<int64_t>((buffer_floats() / row - kernel) / stride + 1, 1, p.output[0]);
  return {rows, std::min((rows - 1) * stride + kernel, p.input[2])};
}

class Worker {
 public:
  Worker(const Conv2dDesc& d, const Conv2dArgs& args, const Pool2dDesc& pool, const StemBands& stem, float* buffer)
      : d_(d), args_(args), p_(pool), stem_(stem), buffer_(buffer) {}

  // Rows [first, first + count) of a pooled image, called in increasing order.
  void run(int64_t image, int64_t first, int64_t count) {
    if (image != image_) first_ = end_ = 0;
    image_ = image;
    convolve(pool2d_inputs(p_, first).begin, pool2d_inputs(p_, first + count - 1).end);
    for (int64_t y = first; y < first + count; ++y) {
      Pool2dRow row{};
      row.y = y;
      row.src = buffer_;
      row.src_stride = d_.o;
      row.first_row = first_;
      row.channels = d_.o;
      row.dst = args_.dst + (image * p_.output[0] + y) * p_.output[1] * args_.dst_stride;
      row.dst_stride = args_.dst_stride;
      run_pool2d_row(p_, args_.weight->kernels(), row);
    }
  }

 private:
  // Computes rows [begin, end) of the convolution into the buffer. Neither bound is less than the previous band's.
  void convolve(int64_t begin, int64_t end) {
    const int64_t row = d_.ow * d_.o, kept = std::max<int64_t>(end_ - begin, 0);
    if (kept > 0) std::memmove(buffer_, buffer_ + (begin - first_) * row, sizeof(float) * kept * row);
    first_ = begin;
    end_ = end;
    for (int64_t y = begin + kept; y < end; y += stem_.rows())
      stem_.run(image_, y, std::min(stem_.rows(), end - y), buffer_ + (y - begin) * row, d_.o);
  }

  const Conv2dDesc& d_;
  const Conv2dArgs& args_;
  const Pool2dDesc& p_;
  const StemBands& stem_;
  float* buffer_;
  int64_t image_ = -1, first_ = 0, end_ = 0;  // the rows in the buffer
};

// How a run in bands is split, and its scratch.
struct BandsMemory {
  Bands bands;
  int64_t stem_rows;
  StemMemory stem;
  int64_t own_buffer;  // floats of each thread
  float* buffers;

  BandsMemory(const Conv2dDesc& d, const Pool2dDesc& p, int threads, Scratch& scratch)
      : bands(bands_of(p)),
        stem_rows(std::min(stem_band_rows(d), bands.buffer)),
        stem(d, stem_rows, threads, scratch),
        own_buffer(round_up(checked_mul(bands.buffer, d.ow * d.o), 16)),
        buffers(scratch.take<float>(checked_mul(threads, own_buffer))) {}
};

void run_bands(const Conv2dDesc& d, const Conv2dArgs& args, const Pool2dDesc& p, int threads, Scratch& scratch) {
  const BandsMemory m(d, p, threads, scratch);
  parallel_for(
      d.n * p.output[0], threads,
      [&](int64_t begin, int64_t end, int thread) noexcept {
        const StemBands stem(d, args, m.stem_rows, m.stem, thread);
        Worker worker(d, args, p, stem, m.buffers + thread * m.own_buffer);
        for_bands(begin, end, p.output[0], m.bands.rows,
                  [&](int64_t image, int64_t first, int64_t count) { worker.run(image, first, count); });
      },
      kWhole);
}

// A thread with fewer rows of the pooled image than this would recompute too many shared rows. An estimate: 3x3 windows
// with stride 2 share one row of two.
constexpr int64_t kRowsPerThread = 8;

// Whether the stem's bands keep all threads busy; else the image is computed as a whole.
bool runs_in_bands(const Conv2dDesc& d, const Pool2dDesc& p, int threads) {
  return threads == 1 || d.n * p.output[0] >= threads * kRowsPerThread;
}

}  // namespace

PooledFrom pooled_from(const Conv2dAlgorithm& algorithm, const Conv2dDesc& d, const Pool2dDesc& p) {
  // The windows of two rows are adjacent only without dilation, and lie in one tile only where the tile's pixels are
  // adjacent.
  const bool can = algorithm.pooled_from == PooledFrom::bands ? !p.adaptive && p.window.dilation[0] == 1
                                                              : winograd_pools(p) && d.window.dilation == Pair{1, 1};
  return can ? algorithm.pooled_from : PooledFrom::image;
}

bool may_pool_in_cache(const Conv2dDesc& d, const Pool2dDesc& p) {
  const auto& all = conv2d_algorithms();
  return std::any_of(all.begin(), all.end(), [&](const Conv2dAlgorithm& a) {
    return a.refusal(d).empty() && pooled_from(a, d, p) != PooledFrom::image;
  });
}

void check_conv2d_pool(const Conv2dDesc& d, const Pool2dDesc& p) {
  const Shape4 image{d.n, d.o, d.oh, d.ow};
  if (p.input != image)
    throw std::invalid_argument("conv2d: the pooling of " + to_string(p.input) +
                                " does not fit the convolution's result " + to_string(image));
}

void reserve_conv2d_pool(const Conv2dAlgorithm& algorithm, const Conv2dDesc& d, const Conv2dArgs& args,
                         const Pool2dDesc& p, bool any_layout, Scratch& scratch) {
  const int threads = threads_for(d.multiply_adds(), args.threads);
  const PooledFrom from = pooled_from(algorithm, d, p);
  if (from == PooledFrom::bands && runs_in_bands(d, p, threads)) {
    BandsMemory(d, p, threads, scratch);
    return;
  }
  if (from != PooledFrom::tiles) scratch.take<float>(checked_mul(d.pixels(), d.o));
  reserve_conv2d(algorithm, d, args, any_layout, scratch);
}

void run_conv2d_pool(const Conv2dAlgorithm& algorithm, const Conv2dDesc& d, const Conv2dArgs& args, const Pool2dDesc& p,
                     Scratch& scratch) {
  if (d.pixels() == 0) return;
  const int threads = threads_for(d.multiply_adds(), args.threads);
  const PooledFrom from = pooled_from(algorithm, d, p);
  if (from == PooledFrom::bands && runs_in_bands(d, p, threads)) return run_bands(d, args, p, threads, scratch);
  Conv2dArgs conv = args;
  if (from == PooledFrom::tiles) {
    conv.pool = &p;
    return run_conv2d(algorithm, d, conv, scratch);
  }
  float* image = scratch.take<float>(checked_mul(d.pixels(), d.o));
  conv.dst = image;
  conv.dst_stride = d.o;
  run_conv2d(algorithm, d, conv, scratch);
  run_pool2d(p, channels_last_view(image, p.input), args.dst, args.dst_stride, nullptr);
}

}  // namespace convlane
