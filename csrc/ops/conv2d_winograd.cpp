// 3x3 convolution with stride 1 by Winograd's minimal filtering: a tile of m x m outputs costs (m + 2)^2 products per
// pair of channels instead of 9 m^2, a factor of 2.25 (m = 2) or 4 (m = 4) fewer.
//
// Tiles are taken in blocks. For a block, the transformed input V[xi][tile][c] is computed once; then for every panel
// of output channels (m + 2)^2 small matrix products give sums[xi][tile][column], which are transformed back while
// they are in the cache. A dilation only moves the pixels of a tile apart. Two schedules differ in the block only:
//   - V in the second-level cache: many blocks, each thread its own, the transformed weights U come from L2 or L3;
//   - U streamed once: one block of all tiles, the threads share V and split the panels. For layers whose U exceeds
//     the caches, and where there are too few tiles to give every thread a block unless U is small.
// Groups are separate convolutions: a block has the channels of a few groups and many tiles, so that U stays in the
// cache, too. Small groups share a vector.
#include <cstring>
#include <vector>

#include "ops/conv2d_winograd.h"
#include "ops/parallel.h"
#include "ops/pool2d.h"
#include "runtime/machine.h"

namespace convlane {
namespace {

// Floats of V that leave room in the second-level cache for the sums and the part of U in use. The fraction is not
// tuned.
int64_t block_floats() { return second_level_floats(2); }
// U beyond this size comes from memory, not from the cache, and should be read only once.
int64_t cached_weight_bytes() { return caches().third / 2; }
// With U of up to a quarter of the second-level cache, every thread reads all of U for a few tiles of its own; with
// larger ones the threads share few tiles instead (32 channels at 28x28, one panel, two threads: 29 to 18 us; EPYC Zen
// 5, 2026-11-21).
int64_t own_weight_bytes() { return caches().second / 4; }
// Tiles of one block when U is streamed: bounds V, and the sums of a panel.
constexpr int64_t kStreamedTiles = 256;

// The channels of a block of groups, if no group has more: enough for reads of a few lines. Not tuned.
constexpr int64_t kGroupedChannels = 64;

// The unit that is divided into panels of output channels: all groups that share a vector, or a single group.
struct Bundles {
  int64_t count, inputs, outputs;  // channels of each; the last one may have fewer
  int64_t panels;                  // of each
  Bundles(const Conv2dDesc& d, const PackedWeight& weight)
      : count(ceil_div(d.groups, weight.together())),
        inputs(weight.together() * d.c_per_group()),
        outputs(weight.together() * d.o_per_group()),
        panels(ceil_div(outputs, weight.kernels().gemm.nr)) {}
};

// The blocks of tiles, and the scratch of a run.
struct Schedule {
  Tiling tiles;
  int threads;
  Bundles bundles;
  int64_t parts, part;  // of the bundles that share a block: how many parts, and the size of the largest
  int64_t v_row;        // floats between the rows of V
  bool streamed;
  int64_t blocks, block;              // how many of each part, and tiles of the largest
  int64_t block_v, block_sums;        // floats
  int64_t own_sums;                   // floats of each thread
  float *zeros, *transformed, *sums;  // transformed: of each thread, or of all when U is streamed
  const float** rows;                 // `block` pointers of each thread
  std::int32_t* index;                // of groups side by side

  Schedule(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch)
      : tiles(tiling(d, args.weight->layout() == WeightLayout::winograd2 ? 2 : 4)),
        threads(threads_for(d.multiply_adds(), args.threads)),
        bundles(d, *args.weight) {
    const KernelTable& kernels = args.weight->kernels();
    parts = ceil_div(bundles.count, ceil_div(kGroupedChannels, bundles.inputs));
    part = ceil_div(bundles.count, parts);
    const int64_t channels = std::min(part * bundles.inputs, d.c);
    // One cache line more than the channels, since rows a power of two apart would compete for a few sets of the
    // first-level cache.
    v_row = round_up(channels, 16) + 16;
    const int64_t fit =
        std::max(block_floats() / (tiles.points * channels) / kernels.gemm.mr, int64_t{1}) * kernels.gemm.mr;
    const int64_t fitting =
        std::max((tiles.count + fit / 2) / fit, int64_t{1});  // 16 tiles are one block of 14, not two of 8
    const int64_t weights = args.weight->bytes();
    streamed =
        d.groups == 1 && (weights > cached_weight_bytes() || (fitting < threads && weights > own_weight_bytes()));
    blocks = streamed ? ceil_div(tiles.count, kStreamedTiles)
                      : std::max(fitting, std::min(ceil_div(threads, parts), tiles.count));
    block = ceil_div(tiles.count, blocks);
    block_v = tiles.points * block * v_row;
    block_sums = tiles.points * (block * kernels.gemm.nr + 16);
    own_sums = block_sums + tiles.m * tiles.m * kernels.gemm.nr;
    zeros = scratch.take<float>(d.c);
    transformed = scratch.take<float>(checked_mul(streamed ? 1 : threads, block_v));
    sums = scratch.take<float>(checked_mul(threads, own_sums));
    rows = scratch.take<const float*>(checked_mul(threads, block));
    index = nullptr;
    if (args.weight->together() == 1) return;
    index = scratch.take<std::int32_t>(d.c_per_group() * kernels.lanes);
  }
};

struct Block {
  int64_t bundle, bundles;   // the first one, and how many
  int64_t first, count;      // tiles
  const float* transformed;  // V
  const float** rows;        // scratch, `count` pointers
  float* sums;               // scratch, points * count * nr floats
  float* pixels;             // scratch, m * m * nr floats: a tile of the output that is to be pooled
};

// V[xi][index] of the block's channels for one of its tiles.
void transform_input(const Conv2dDesc& d, const Conv2dArgs& args, const Schedule& s, const Block& b, float* v,
                     int64_t index) {
  const Tiling& t = s.tiles;
  const auto [image, y, x] = position(t, b.first + index);
  const int64_t channel = b.bundle * s.bundles.inputs, channels = std::min(b.bundles * s.bundles.inputs, d.c - channel);
  const float* pixels[36];
  tile_pixels(args.src.data + image * d.h * d.w * d.c + channel, d.h, d.w, d.c, y - d.window.top, x - d.window.left,
              t.step, t.m + 2, s.zeros, pixels);
  const int64_t next = index + 1 < b.count ? s.v_row : 0;
  args.weight->kernels().winograd_input({t.m, pixels, channels, v + index * s.v_row, b.count * s.v_row, next});
}

// Maxima of the 2x2 windows of a tile of the output, which exists only in `tile.dst`.
void pool_tile(const WinogradOutputArgs& tile, const KernelTable& kernels, const TilePosition& at,
               const Pool2dDesc& pool, float* dst, int64_t dst_stride) {
  const int64_t height = std::min<int64_t>(tile.rows, tile.m), width = std::min<int64_t>(tile.columns, tile.m);
  PoolArgs k{};
  k.kind = Pooling::max;
  k.tap_step = tile.dst_stride;
  k.row_step = tile.width * k.tap_step;
  k.pixel_step = 2 * k.tap_step;
  k.channels = tile.channels;
  k.dst_step = dst_stride;
  const auto run = [&](int64_t i, int64_t j, int64_t taps, int64_t pixels) {
    k.src = tile.dst + i * k.row_step + j * k.tap_step;
    k.dst = dst + (((at.image * pool.output[0]) + (at.y + i) / 2) * pool.output[1] + (at.x + j) / 2) * dst_stride;
    k.rows = std::min<int64_t>(height - i, 2);
    k.taps = taps;
    k.pixels = pixels;
    kernels.pool(k);
  };
  for (int64_t i = 0; i < height && (at.y + i) / 2 < pool.output[0]; i += 2) {
    if (width > 1) run(i, 0, 2, width / 2);
    if (width % 2 != 0 && (at.x + width) / 2 < pool.output[1]) run(i, width - 1, 1, 1);  // cut, ceil_mode keeps it
  }
}

// sums[xi][tile][column] for the `width` columns of a panel, computed from V's channels from `offset` on.
void run_products(const Conv2dDesc& d, const Conv2dArgs& args, const Schedule& s, const Block& b, int64_t offset,
                  const float* weight, int64_t width) {
  const KernelTable& kernels = args.weight->kernels();
  const int64_t depth = d.c_per_group(), nr = kernels.gemm.nr;
  const bool side_by_side = args.weight->together() > 1;
  GemmArgs g{};
  g.rows = b.rows;
  g.rows_stride = g.m = b.count;
  g.n = width;
  g.taps = 1;
  g.depth = depth;
  g.weight_end = args.weight->end();
  g.dst_stride = nr;
  GroupedArgs of_groups{};
  of_groups.rows = b.rows;
  of_groups.rows_stride = of_groups.m = b.count;
  of_groups.taps = 1;
  of_groups.depth = depth;
  of_groups.inputs = of_groups.outputs = width;  // V has room for them after the channels
  of_groups.index = s.index;
  of_groups.dst_stride = nr;
  for (int64_t i = 0; i < b.count; ++i) b.rows[i] = b.transformed + i * s.v_row;
  for (int64_t xi = 0; xi < s.tiles.points; ++xi) {
    g.row_offset = of_groups.row_offset = offset + xi * b.count * s.v_row;
    g.weight = of_groups.weight = weight + xi * depth * width;
    g.dst = of_groups.dst = b.sums + xi * (b.count * nr + 16);
    if (side_by_side)
      kernels.grouped(of_groups);
    else
      kernels.gemm.run(g);
  }
}

// All products and outputs of one panel of output channels for a block.
void run_panel(const Conv2dDesc& d, const Conv2dArgs& args, const Schedule& s, const Block& b, int64_t panel) {
  const KernelTable& kernels = args.weight->kernels();
  const Tiling& t = s.tiles;
  const int64_t nr = kernels.gemm.nr, bundle = b.bundle + panel / s.bundles.panels;
  const int64_t skipped = panel % s.bundles.panels * nr, first_channel = bundle * s.bundles.outputs + skipped;
  const int64_t columns = std::min({nr, s.bundles.outputs - skipped, d.o - first_channel});
  const int64_t width = columns <= kernels.lanes ? kernels.lanes : nr;
  run_products(d, args, s, b, (bundle - b.bundle) * s.bundles.inputs,
               args.weight->data() + bundle * args.weight->group_stride() + skipped * t.points * d.c_per_group(),
               width);
  for (int64_t i = 0; i < b.count; ++i) {
    const TilePosition at = position(t, b.first + i);
    const auto [image, y, x] = at;
    const int64_t pixel = (image * d.oh + y) * d.ow + x;
    WinogradOutputArgs out{};
    out.m = t.m;
    out.src = b.sums + i * nr;
    out.src_stride = b.count * nr + 16;
    out.channels = columns;
    out.dst = args.pool == nullptr ? args.dst + pixel * args.dst_stride + first_channel : b.pixels;
    out.dst_stride = args.pool == nullptr ? t.step * args.dst_stride : nr;
    out.width = args.pool == nullptr ? d.ow : t.m;
    out.rows = ceil_div(d.oh - y, t.step);
    out.columns = ceil_div(d.ow - x, t.step);
    out.epilogue = args.epilogue;
    out.epilogue.residual_stride *= t.step;
    if (out.epilogue.bias != nullptr) out.epilogue.bias += first_channel;
    if (out.epilogue.residual != nullptr)
      out.epilogue.residual += pixel * args.epilogue.residual_stride + first_channel;
    kernels.winograd_output(out);
    if (args.pool != nullptr) pool_tile(out, kernels, at, *args.pool, args.dst + first_channel, args.dst_stride);
  }
}

}  // namespace

std::string refuse_winograd(const Conv2dDesc& d) {
  if (d.kh() != 3 || d.kw() != 3) return "the kernel is " + to_string(d.window.kernel) + ", not 3x3";
  if (d.window.stride != Pair{1, 1}) return "the stride is " + to_string(d.window.stride) + ", not 1";
  const Pair& dilation = d.window.dilation;
  if (dilation[0] != dilation[1]) return "the dilation is " + to_string(dilation) + ", not equal in height and width";
  return "";
}

// Tiles of 2x2 and of 4x4 outputs hold whole windows of 2x2.
bool winograd_pools(const Pool2dDesc& p) {
  const Window& w = p.window;
  return p.kind == Pooling::max && !p.adaptive && w.kernel == Pair{2, 2} && w.stride == Pair{2, 2} &&
         w.dilation == Pair{1, 1} && w.top + w.bottom + w.left + w.right == 0;
}

void reserve_winograd(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) { Schedule(d, args, scratch); }

void run_winograd(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  const Schedule s(d, args, scratch);
  const Tiling& t = s.tiles;
  std::memset(s.zeros, 0, sizeof(float) * d.c);
  if (s.index != nullptr) fill_group_index(d, *args.weight, s.index);
  const auto part = [&](int64_t index, float* v, int thread) {
    const int64_t bundles = s.bundles.count, in = index / s.blocks, at = index % s.blocks;
    const int64_t bundle = bundles * in / s.parts, first = t.count * at / s.blocks;
    float* own = s.sums + thread * s.own_sums;
    return Block{bundle, bundles * (in + 1) / s.parts - bundle,
                 first,  t.count * (at + 1) / s.blocks - first,
                 v,      s.rows + thread * s.block,
                 own,    own + s.block_sums};
  };

  if (!s.streamed) {
    parallel_for(s.parts * s.blocks, s.threads, [&](int64_t begin, int64_t end, int thread) noexcept {
      for (int64_t index = begin; index < end; ++index) {
        float* v = s.transformed + thread * s.block_v;
        const Block b = part(index, v, thread);
        for (int64_t i = 0; i < b.count; ++i) transform_input(d, args, s, b, v, i);
        for (int64_t panel = 0; panel < b.bundles * s.bundles.panels; ++panel) run_panel(d, args, s, b, panel);
      }
    });
    return;
  }
  for (int64_t index = 0; index < s.blocks; ++index) {
    float* v = s.transformed;
    parallel_for(part(index, v, 0).count, s.threads, [&](int64_t begin, int64_t end, int thread) noexcept {
      for (int64_t i = begin; i < end; ++i) transform_input(d, args, s, part(index, v, thread), v, i);
    });
    parallel_for(s.bundles.panels, s.threads, [&](int64_t begin, int64_t end, int thread) noexcept {
      for (int64_t panel = begin; panel < end; ++panel) run_panel(d, args, s, part(index, v, thread), panel);
    });
  }
}

}  // namespace convlane
