// Transposed convolution to few channels: a matrix product computes each input's contribution to its whole window.
//
// Tiles of outputs are accumulated in scratch, which starts with the bias, and activated where they are stored. Inputs
// whose windows span several tiles are multiplied for each of them. An output sums its inputs in order, whatever the
// tiles.
#include <algorithm>
#include <cstring>

#include "ops/conv_transpose2d.h"
#include "ops/parallel.h"
#include "runtime/machine.h"

namespace convlane {
namespace {

// How the outputs are divided, and the scratch of a run.
struct WindowTiles {
  int threads;
  int64_t down, across;    // tiles of an image
  int64_t rows, columns;   // of a tile, at most
  int64_t inputs;          // under a row of a tile, at most
  int64_t window;          // floats of a window
  float *sums, *products;  // of each thread
  const float** pointers;  // to the inputs, of each thread

  WindowTiles(const Conv2dDesc& d, const ConvTranspose2dArgs& args, Scratch& scratch) {
    constexpr int64_t kColumns = 256;
    const int64_t floats = second_level_floats(16);  // sums and products stay in that cache
    threads = threads_for(d.multiply_adds(), args.threads);
    across = ceil_div(d.w, kColumns);
    columns = ceil_div(d.w, across);
    down = std::min(round_up(ceil_div(d.h, std::max<int64_t>(floats / (columns * d.c), 1)), threads), d.h);
    rows = ceil_div(d.h, down);
    window = checked_mul(d.taps(), d.c);
    const int64_t reach = (d.kw() - 1) * d.window.dilation[1];
    inputs = std::min(d.ow, (columns - 1 + reach) / d.window.stride[1] + 1);
    sums = scratch.take<float>(checked_mul(threads, rows * columns * d.c));
    products = scratch.take<float>(checked_mul(threads, checked_mul(inputs, window)));
    pointers = scratch.take<const float*>(checked_mul(threads, inputs));
  }
};

// Inputs whose windows may reach the outputs [begin, end) along one dimension.
Range inputs_of(int64_t begin, int64_t end, int64_t before, int64_t reach, int64_t stride, int64_t size) {
  const int64_t first = ceil_div(std::max<int64_t>(begin + before - reach, 0), stride);
  return {first, std::min(size, (end - 1 + before) / stride + 1)};
}

struct Tile {
  Range rows, columns;  // outputs
  float* sums;          // [rows][columns][channels]
  int64_t height() const { return rows.end - rows.begin; }
  int64_t width() const { return columns.end - columns.begin; }
};

// Adds the part of the window of input (oh, ow) that lies in a tile.
void add_window(const Conv2dDesc& d, const KernelTable& kernels, const float* window, int64_t oh, int64_t ow,
                const Tile& tile) {
  const Window& w = d.window;
  constexpr int64_t kFew = 8;  // below this, a kernel call takes longer than the sums
  const int64_t left = ow * w.stride[1] - w.left - tile.columns.begin;
  const bool whole = left >= 0 && left + (d.kw() - 1) * w.dilation[1] < tile.width();
  const Range inside = whole ? Range{0, d.kw()} : valid_outputs(left, w.dilation[1], tile.width(), d.kw());
  const int64_t step = w.dilation[1] == 1 ? std::max<int64_t>(inside.end - inside.begin, 1) : 1;  // taps side by side
  for (int64_t r = 0; r < d.kh(); ++r, window += d.kw() * d.c) {
    const int64_t y = oh * w.stride[0] - w.top + r * w.dilation[0] - tile.rows.begin;
    if (y < 0 || y >= tile.height()) continue;
    for (int64_t s = inside.begin; s < inside.end; s += step) {
      float* to = tile.sums + (y * tile.width() + left + s * w.dilation[1]) * d.c;
      const float* more = window + s * d.c;
      if (step * d.c < kFew)
        for (int64_t i = 0; i < step * d.c; ++i) to[i] += more[i];
      else
        kernels.add(to, more, to, step * d.c, Activation::none, 0);
    }
  }
}

void begin_sums(const Conv2dDesc& d, const float* bias, const Tile& tile) {
  const int64_t pixels = tile.height() * tile.width();
  if (bias == nullptr) {
    std::memset(tile.sums, 0, sizeof(float) * pixels * d.c);
    return;
  }
  std::copy_n(bias, d.c, tile.sums);
  for (int64_t done = 1; done < pixels; done *= 2)  // copies a doubling number of pixels
    std::memcpy(tile.sums + done * d.c, tile.sums, sizeof(float) * std::min(done, pixels - done) * d.c);
}

void store_sums(const Conv2dDesc& d, const ConvTranspose2dArgs& args, int64_t image, const Tile& tile) {
  const KernelTable& kernels = args.weight->kernels();
  const int64_t row = tile.width() * d.c;
  for (int64_t y = 0; y < tile.height(); ++y) {
    float* from = tile.sums + y * row;
    float* to = args.dst + ((image * d.h + tile.rows.begin + y) * d.w + tile.columns.begin) * args.dst_stride;
    const bool dense = args.dst_stride == d.c;
    kernels.activate(from, dense ? to : from, row, args.epilogue.activation, args.epilogue.slope);
    for (int64_t x = 0; !dense && x < tile.width(); ++x) std::copy_n(from + x * d.c, d.c, to + x * args.dst_stride);
  }
}

}  // namespace

void reserve_transposed_windows(const Conv2dDesc& d, const ConvTranspose2dArgs& args, Scratch& scratch) {
  WindowTiles(d, args, scratch);
}

void run_transposed_windows(const Conv2dDesc& d, const ConvTranspose2dArgs& args, Scratch& scratch) {
  const WindowTiles t(d, args, scratch);
  const Window& w = d.window;
  const PackedWeight& weight = args.weight->part();
  parallel_for(d.n * t.down * t.across, t.threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    const float** pointers = t.pointers + thread * t.inputs;
    float* products = t.products + thread * t.inputs * t.window;
    GemmArgs g{};
    g.rows = pointers;
    g.n = t.window;
    g.taps = 1;
    g.depth = d.o;
    g.weight = weight.data();
    g.weight_end = weight.end();
    g.dst = products;
    g.dst_stride = t.window;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / (t.down * t.across), y = task / t.across % t.down, x = task % t.across;
      const Tile tile{{d.h * y / t.down, d.h * (y + 1) / t.down},
                      {d.w * x / t.across, d.w * (x + 1) / t.across},
                      t.sums + thread * t.rows * t.columns * d.c};
      const Range rows =
          inputs_of(tile.rows.begin, tile.rows.end, w.top, (d.kh() - 1) * w.dilation[0], w.stride[0], d.oh);
      const Range columns =
          inputs_of(tile.columns.begin, tile.columns.end, w.left, (d.kw() - 1) * w.dilation[1], w.stride[1], d.ow);
      begin_sums(d, args.epilogue.bias, tile);
      g.m = g.rows_stride = columns.end - columns.begin;
      for (int64_t oh = rows.begin; oh < rows.end && g.m > 0; ++oh) {
        for (int64_t i = 0; i < g.m; ++i)
          pointers[i] = args.src.data + ((image * d.oh + oh) * d.ow + columns.begin + i) * d.o;
        args.weight->kernels().gemm.run(g);
        for (int64_t i = 0; i < g.m; ++i)
          add_window(d, args.weight->kernels(), products + i * t.window, oh, columns.begin + i, tile);
      }
      store_sums(d, args, image, tile);
    }
  });
}

}  // namespace convlane
