// Gradient of a 3x3 weight with stride 1 as the adjoint of Winograd's F(4x4, 3x3): with V = B^T d B of an input tile
// and Z = A y A^T of the gradient of its outputs, the gradient is G^T (sum over tiles of V . Z) G. For a pair of
// channels a tile costs 36 products instead of 144. (A. Lavin, S. Gray, arXiv 1509.09308.)
//
// Tiles are processed in blocks. All threads compute V and Z of a block; then each thread computes parts of
// sums[xi][c][o], products of two matrices summed over the tiles. Sums run over the tiles of a block in order, and over
// the blocks, which follow from the shape; so the number of threads changes no bit.
#include <cstring>

#include "ops/conv2d_backward.h"
#include "ops/conv2d_winograd.h"
#include "ops/parallel.h"
#include "runtime/machine.h"

namespace convlane {
namespace {

constexpr int kSide = 4;

// Both factors in panels as narrow as a register tile: each product reads a panel of tiles from start to end.
struct Panels {
  int64_t count, width;  // width: channels of a panel, the last one may have fewer
  int64_t row;           // floats between two tiles
};

Panels panels_of(int64_t channels, int64_t most, int64_t row) {
  const int64_t count = ceil_div(channels, most);
  return {count, ceil_div(channels, count), row};
}

// Tiles of a block: V and Z stay in the third-level cache; but where the sums do not, a block has enough tiles that the
// sums are rarely read and written. (64 channels at 56: 9.8 ms, with four times as many floats 13.8; 512 at 7: 16.1 and
// 11.4; 16 images, one thread, EPYC Zen 5, 2026-11-21.)
int64_t tiles_of_block(const Tiling& t, int64_t tile_floats, int64_t sums) {
  constexpr int64_t kManyTiles = 128;
  const int64_t fitting = std::max(third_level_floats(8) / tile_floats, sums > third_level_floats(2) ? kManyTiles : 1);
  return ceil_div(t.count, ceil_div(t.count, fitting));
}

}  // namespace

bool winograd_gradient_pays(const Conv2dDesc& d) {
  constexpr int64_t kFewChannels = 16;  // with fewer, the transforms cost more than they save: an estimate
  if (d.groups != 1 || !refuse_winograd(d).empty() || std::min(d.c, d.o) < kFewChannels) return false;
  const Tiling t = tiling(d, kSide);
  return t.points * t.count < d.n * met_taps(d);
}

void run_winograd_weight_gradient(const Conv2dDesc& d, const float* gradient, const float* input, float* dst) {
  const KernelTable& kernels = active_table();
  const Tiling t = tiling(d, kSide);
  const int64_t mr = kernels.gemm.mr, nr = kernels.gemm.nr, line = std::max<int64_t>(kernels.lanes, 16);
  const Panels in = panels_of(d.c, mr, round_up(mr, kernels.lanes));
  const Panels out = {ceil_div(d.o, nr), nr, nr};
  const int64_t tile_floats = t.points * (in.count * in.row + out.count * out.row);
  const int64_t block = tiles_of_block(t, tile_floats, t.points * d.c * d.o), blocks = ceil_div(t.count, block);
  // One cache line more than the floats need: rows a power of two apart would compete for a few sets of the cache.
  const int64_t v_stride = block * in.row + line, z_stride = block * out.row + line;
  const int64_t sums_panel = in.width * nr, sums_stride = in.count * out.count * sums_panel + line;
  const int threads = threads_for(d.multiply_adds());

  const auto v = allocate_aligned<float>(checked_mul(in.count * t.points, v_stride));
  const auto z = allocate_aligned<float>(checked_mul(out.count * t.points, z_stride));
  const auto sums = allocate_aligned<float>(checked_mul(t.points, sums_stride));
  const auto zeros = allocate_aligned<float>(std::max(d.c, d.o));
  std::memset(zeros.get(), 0, sizeof(float) * std::max(d.c, d.o));
  const auto rows = allocate_aligned<const float*>(checked_mul(2, block));
  const float **v_rows = rows.get(), **z_rows = v_rows + block;
  for (int64_t i = 0; i < block; ++i) v_rows[i] = v.get() + i * in.row, z_rows[i] = z.get() + i * out.row;
  const int64_t filters = 9 * in.width * nr;
  const auto scratch = allocate_aligned<float>(checked_mul(threads, filters));

  for (int64_t index = 0; index < blocks; ++index) {
    const int64_t first = t.count * index / blocks, count = t.count * (index + 1) / blocks - first;
    parallel_for(count, threads, [&](int64_t begin, int64_t end, int) noexcept {
      const float* pixels[36];
      for (int64_t panel = 0; panel < in.count; ++panel) {
        const int64_t c = panel * in.width;
        for (int64_t i = begin; i < end; ++i) {
          const auto [image, y, x] = position(t, first + i);
          tile_pixels(input + image * d.h * d.w * d.c + c, d.h, d.w, d.c, y - d.window.top, x - d.window.left, t.step,
                      kSide + 2, zeros.get(), pixels);
          kernels.winograd_input({kSide, pixels, std::min(in.width, d.c - c),
                                  v.get() + panel * t.points * v_stride + i * in.row, v_stride,
                                  i + 1 < count ? in.row : 0});
        }
      }
      for (int64_t panel = 0; panel < out.count; ++panel) {
        const int64_t o = panel * out.width;
        for (int64_t i = begin; i < end; ++i) {
          const auto [image, y, x] = position(t, first + i);
          tile_pixels(gradient + image * d.oh * d.ow * d.o + o, d.oh, d.ow, d.o, y, x, t.step, kSide, zeros.get(),
                      pixels);
          kernels.winograd_output_gradient({kSide, pixels, std::min(out.width, d.o - o),
                                            z.get() + panel * t.points * z_stride + i * out.row, z_stride,
                                            i + 1 < count ? out.row : 0});
        }
      }
    });
    parallel_for(t.points * out.count * in.count, threads, [&](int64_t begin, int64_t end, int) noexcept {
      OuterArgs g{};
      g.a = v_rows;
      g.b = z_rows;
      g.count = count;
      g.dst_stride = nr;
      g.accumulate = index > 0;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t to = task / in.count % out.count, from = task % in.count, xi = task / (in.count * out.count);
        g.a_offset = (from * t.points + xi) * v_stride;
        g.b_offset = (to * t.points + xi) * z_stride;
        g.rows = std::min(in.width, d.c - from * in.width);
        g.columns = std::min(nr, d.o - to * nr);
        g.dst = sums.get() + xi * sums_stride + (to * in.count + from) * sums_panel;
        kernels.outer(g);
      }
    });
  }
  parallel_for(out.count * in.count, threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    float* taps = scratch.get() + thread * filters;  // [c][tap][o]
    for (int64_t task = begin; task < end; ++task) {
      const int64_t to = task / in.count, from = task % in.count;
      const int64_t inputs = std::min(in.width, d.c - from * in.width), outputs = std::min(nr, d.o - to * nr);
      for (int64_t c = 0; c < inputs; ++c)
        kernels.winograd_filters_gradient(sums.get() + task * sums_panel + c * nr, sums_stride, outputs,
                                          taps + c * 9 * nr, nr);
      kernels.transpose(taps, nr, dst + (to * nr * d.c + from * in.width) * 9, d.c * 9, 9 * inputs, outputs);
    }
  });
}

}  // namespace convlane
