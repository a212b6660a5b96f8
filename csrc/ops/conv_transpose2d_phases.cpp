// Transposed convolution phase by phase.
//
// Along one dimension, output x receives input y through tap r where x = y * stride + r * dilation - before. So outputs
// of one residue modulo the stride use only every few taps: they are the result of a convolution with stride 1 by those
// taps in reverse order, in which no zeros are multiplied. Results are written `stride` pixels apart, at their final
// positions: one product for each row, because only within a row are they equally spaced.
#include <algorithm>
#include <cstring>

#include "ops/conv_transpose2d.h"
#include "ops/parallel.h"
#include "ops/rows_gemm.h"
#include "runtime/machine.h"

namespace convlane {
namespace {

// Calls body(y, x) for each pair of phases of an image.
template <class Body>
void for_phases(const Conv2dDesc& d, const Body& body) {
  for (int64_t i = 0; i < std::min(d.window.stride[0], d.h); ++i)
    for (int64_t j = 0; j < std::min(d.window.stride[1], d.w); ++j) body(phase_of(d, 0, i), phase_of(d, 1, j));
}

// Positions of an image: each stands for one output of every phase, except for the last ones where phases differ in
// size.
struct Positions {
  int64_t height, width;
  explicit Positions(const Conv2dDesc& d)
      : height(ceil_div(d.h, d.window.stride[0])), width(ceil_div(d.w, d.window.stride[1])) {}
};

// Outputs that no tap reaches: the activated bias.
struct BlankPixel {
  float* pixel;
  BlankPixel(const Conv2dDesc& d, Scratch& scratch) : pixel(scratch.take<float>(d.c)) {}

  void fill(const Conv2dDesc& d, const ConvTranspose2dArgs& args) const {
    if (args.epilogue.bias == nullptr)
      std::memset(pixel, 0, sizeof(float) * d.c);
    else
      std::copy_n(args.epilogue.bias, d.c, pixel);
    args.weight->kernels().activate(pixel, pixel, d.c, args.epilogue.activation, args.epilogue.slope);
  }
};

// The output of two phases in their row i and column j.
float* output_at(const Conv2dDesc& d, const ConvTranspose2dArgs& args, int64_t image, const Phase& y, const Phase& x,
                 int64_t i, int64_t j) {
  return args.dst + ((image * d.h + y.first + i * y.step) * d.w + x.first + j * x.step) * args.dst_stride;
}

// How the positions are divided, and the scratch of a run. What a tile reads stays in the cache from phase to phase.
struct PhaseTiles {
  Positions positions;
  int threads;
  int64_t rows, columns;  // of a tile, at most; one row where columns are divided
  int64_t across;         // tiles side by side
  int64_t units;          // panels, or groups
  bool by_units;          // threads share units, not positions
  bool moved;             // rows are so short that a tile is one product, which is then copied to the output
  int64_t moved_columns;
  BlankPixel blank;
  float* zeros;
  const float** pointers;  // of each thread
  int64_t own_pointers;
  float* blocks;  // of each thread
  int64_t own_block;

  PhaseTiles(const Conv2dDesc& d, const ConvTranspose2dArgs& args, Scratch& scratch)
      : positions(d), blank(d, scratch), zeros(scratch.take<float>(d.o)) {
    constexpr int64_t kMovedPanels = 8;
    const GemmKernel<GemmArgs>& gemm = args.weight->kernels().gemm;
    threads = threads_for(d.multiply_adds(), args.threads);
    const int64_t most = gemm.mr * std::clamp<int64_t>(second_level_floats(4) / (d.o * gemm.mr), 4, 16);
    across = ceil_div(positions.width, most);
    columns = ceil_div(positions.width, across);
    rows = across > 1 ? 1 : std::min(std::max<int64_t>(most / columns, 1), positions.height);
    units = d.groups > 1 ? d.groups : ceil_div(d.c, gemm.nr);
    by_units = d.n * positions.height * positions.width < 4 * threads * gemm.mr && units >= threads;
    moved = rows > 1 && 2 * columns < gemm.mr;
    moved_columns = std::min(d.c_per_group(), kMovedPanels * gemm.nr);
    own_pointers = checked_mul(rows * columns, checked_mul(most_taps(d, 0), most_taps(d, 1)));
    pointers = scratch.take<const float*>(checked_mul(threads, own_pointers));
    own_block = moved ? rows * columns * moved_columns : 0;
    blocks = scratch.take<float>(checked_mul(threads, own_block));
  }

  static int64_t most_taps(const Conv2dDesc& d, int dimension) {
    return ceil_div(d.window.kernel[dimension], phase_of(d, dimension, 0).tap_step);
  }
};

struct Tile {
  int64_t image, row, column, rows, columns;  // positions
  int64_t unit_begin, unit_end;
};

class PhaseRun {
 public:
  PhaseRun(const Conv2dDesc& d, const ConvTranspose2dArgs& args, const PhaseTiles& tiles, int thread)
      : d_(d),
        args_(args),
        tiles_(tiles),
        pointers_(tiles.pointers + thread * tiles.own_pointers),
        block_(tiles.blocks + thread * tiles.own_block) {}

  void run(Tile tile, const Phase& y, const Phase& x) const {
    tile.rows = std::min(tile.rows, y.count - tile.row);
    tile.columns = std::min(tile.columns, x.count - tile.column);
    if (tile.rows < 1 || tile.columns < 1) return;
    if (y.taps * x.taps == 0) return run_blank(tile, y, x);
    const Conv2dDesc p = phase_conv2d(d_, y, x);
    const PackedWeight& weight = args_.weight->part(y.tap, x.tap);
    const int64_t nr = weight.kernels().gemm.nr, count = tile.rows * tile.columns, n = p.o_per_group();
    fill_pixel_rows(p, args_.src.data, tiles_.zeros, (tile.image * p.oh + tile.row) * p.ow + tile.column, count,
                    pointers_);
    GemmArgs g{};
    g.rows = pointers_;
    g.rows_stride = count;
    g.taps = p.taps();
    g.depth = p.c_per_group();
    g.weight_end = weight.end();
    g.zeros = tiles_.zeros;
    g.epilogue = args_.epilogue;
    const bool grouped = d_.groups > 1;
    const int64_t begin = grouped ? 0 : tile.unit_begin * nr, end = grouped ? n : std::min(n, tile.unit_end * nr);
    const int64_t most = columns_at_once(g.taps * g.depth, nr);
    for (int64_t group = grouped ? tile.unit_begin : 0; group < (grouped ? tile.unit_end : 1); ++group) {
      g.row_offset = group * g.depth;
      for (int64_t column = begin; column < end; column += most) {
        g.n = std::min(most, end - column);
        g.weight = weight.data() + group * weight.group_stride() + column * g.taps * g.depth;
        const int64_t channel = group * n + column;
        if (args_.epilogue.bias != nullptr) g.epilogue.bias = args_.epilogue.bias + channel;
        tiles_.moved ? run_moved(g, tile, y, x, channel) : run_rows(g, tile, y, x, channel);
      }
    }
  }

 private:
  // Weights that stay in the cache for all rows of a tile, or for a block of products until it is copied.
  int64_t columns_at_once(int64_t steps, int64_t nr) const {
    return tiles_.moved ? tiles_.moved_columns : std::max<int64_t>(second_level_floats(4) / (steps * nr), 1) * nr;
  }

  void run_rows(GemmArgs& g, const Tile& tile, const Phase& y, const Phase& x, int64_t channel) const {
    g.m = tile.columns;
    g.dst_stride = x.step * args_.dst_stride;
    for (int64_t i = 0; i < tile.rows; ++i) {
      g.rows = pointers_ + i * tile.columns;
      g.dst = output_at(d_, args_, tile.image, y, x, tile.row + i, tile.column) + channel;
      args_.weight->kernels().gemm.run(g);
    }
  }

  void run_moved(GemmArgs& g, const Tile& tile, const Phase& y, const Phase& x, int64_t channel) const {
    g.m = tile.rows * tile.columns;
    g.dst = block_;
    g.dst_stride = tiles_.moved_columns;
    args_.weight->kernels().gemm.run(g);
    for (int64_t i = 0; i < tile.rows; ++i)
      for (int64_t j = 0; j < tile.columns; ++j)
        std::copy_n(block_ + (i * tile.columns + j) * tiles_.moved_columns, g.n,
                    output_at(d_, args_, tile.image, y, x, tile.row + i, tile.column + j) + channel);
  }

  void run_blank(const Tile& tile, const Phase& y, const Phase& x) const {
    if (tile.unit_begin != 0) return;  // whole pixels, once
    for (int64_t i = 0; i < tile.rows; ++i)
      for (int64_t j = 0; j < tile.columns; ++j)
        std::copy_n(tiles_.blank.pixel, d_.c, output_at(d_, args_, tile.image, y, x, tile.row + i, tile.column + j));
  }

  const Conv2dDesc& d_;
  const ConvTranspose2dArgs& args_;
  const PhaseTiles& tiles_;
  const float** pointers_;
  float* block_;
};

void run_products(const Conv2dDesc& d, const ConvTranspose2dArgs& args, Scratch& scratch) {
  const PhaseTiles t(d, args, scratch);
  t.blank.fill(d, args);
  std::memset(t.zeros, 0, sizeof(float) * d.o);
  const int64_t lines = t.positions.height * t.across;
  const auto run = [&](int64_t begin, int64_t end, int64_t unit_begin, int64_t unit_end, int thread) noexcept {
    const PhaseRun each(d, args, t, thread);
    for_bands(begin, end, lines, t.rows, [&](int64_t image, int64_t first, int64_t count) {
      const int64_t column = first % t.across * t.columns;
      const Tile tile{image,      first / t.across, column, count, std::min(t.columns, t.positions.width - column),
                      unit_begin, unit_end};
      for_phases(d, [&](const Phase& y, const Phase& x) { each.run(tile, y, x); });
    });
  };
  if (t.by_units)
    parallel_for(t.units, t.threads,
                 [&](int64_t begin, int64_t end, int thread) noexcept { run(0, d.n * lines, begin, end, thread); });
  else
    parallel_for(d.n * lines, t.threads,
                 [&](int64_t begin, int64_t end, int thread) noexcept { run(begin, end, 0, t.units, thread); });
}

// Filters of one channel each, row by row.
struct DepthwiseParts {
  int threads;
  BlankPixel blank;
  float* zeros;            // a row
  const float** pointers;  // to the rows that a filter meets, of each thread
  int64_t most_rows;

  DepthwiseParts(const Conv2dDesc& d, const ConvTranspose2dArgs& args, Scratch& scratch)
      : threads(threads_for(d.multiply_adds(), args.threads)),
        blank(d, scratch),
        zeros(scratch.take<float>(checked_mul(d.ow, d.o))),
        pointers(nullptr),
        most_rows(PhaseTiles::most_taps(d, 0)) {
    pointers = scratch.take<const float*>(checked_mul(threads, most_rows));
  }
};

void run_depthwise_row(const Conv2dDesc& d, const ConvTranspose2dArgs& args, const DepthwiseParts& parts,
                       const float** rows, int64_t image, int64_t i, const Phase& y, const Phase& x) {
  float* dst = output_at(d, args, image, y, x, i, 0);
  const int64_t step = x.step * args.dst_stride;
  if (y.taps * x.taps == 0) {
    for (int64_t j = 0; j < x.count; ++j) std::copy_n(parts.blank.pixel, d.c, dst + j * step);
    return;
  }
  const Conv2dDesc p = phase_conv2d(d, y, x);
  const PackedWeight& weight = args.weight->part(y.tap, x.tap);
  DepthwiseArgs k = depthwise_args(p, weight, args.epilogue);
  for (int64_t r = 0; r < p.kh(); ++r) {
    const int64_t ih = i - p.window.top + r * p.window.dilation[0];
    rows[r] = ih < 0 || ih >= p.h ? parts.zeros : args.src.data + (image * p.h + ih) * p.w * p.c;
  }
  k.rows = rows;
  k.zeros = parts.zeros;
  k.dilation_h = 1;  // `rows` are those that the taps meet
  k.out_rows = 1;
  k.dst = dst;
  k.dst_stride = step;
  weight.kernels().depthwise(k);
}

void run_filters(const Conv2dDesc& d, const ConvTranspose2dArgs& args, Scratch& scratch) {
  const DepthwiseParts parts(d, args, scratch);
  const Positions positions(d);
  parts.blank.fill(d, args);
  std::memset(parts.zeros, 0, sizeof(float) * d.ow * d.o);
  parallel_for(d.n * positions.height, parts.threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    const float** rows = parts.pointers + thread * parts.most_rows;
    for (int64_t index = begin; index < end; ++index)
      for_phases(d, [&](const Phase& y, const Phase& x) {
        const int64_t i = index % positions.height;
        if (i < y.count) run_depthwise_row(d, args, parts, rows, index / positions.height, i, y, x);
      });
  });
}

bool is_depthwise(const ConvTranspose2dArgs& args) { return args.weight->part().layout() == WeightLayout::depthwise; }

}  // namespace

void reserve_transposed_phases(const Conv2dDesc& d, const ConvTranspose2dArgs& args, Scratch& scratch) {
  if (is_depthwise(args))
    DepthwiseParts(d, args, scratch);
  else
    PhaseTiles(d, args, scratch);
}

void run_transposed_phases(const Conv2dDesc& d, const ConvTranspose2dArgs& args, Scratch& scratch) {
  (is_depthwise(args) ? run_filters : run_products)(d, args, scratch);
}

}  // namespace convlane
