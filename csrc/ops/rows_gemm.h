// The driver of the matrix kernel: blocks of output rows times groups of weight panels, split among threads.
//
// Pointwise, direct and im2col convolution and the linear layer differ only in where the rows of the left matrix are;
// each passes a function that writes the pointers for a block of rows.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>

#include "kernels/table.h"
#include "ops/conv2d.h"
#include "ops/padding_tiles.h"
#include "ops/parallel.h"
#include "runtime/buffer.h"
#include "runtime/machine.h"

namespace convlane {

// Rows that lie a multiple of 4 KB apart fall into one set of the first-level cache (64 sets of lines of 64 bytes, on
// every x86 CPU with 32 or 48 KB), which has 8 ways: more rows than that in a register tile evict each other between
// two steps of the depth. Copies of them lie an odd number of lines apart: 56 rows by 256 columns, 512 deep, reach 127
// to 135 GFLOP/s instead of 61 to 92 (AVX-512, Xeon of the second generation, 2026-11-27). Six rows, those of AVX2, fit
// a set: there copies gained nothing.
constexpr int64_t kSpreadFloats = 16;
inline bool is_aliased(const KernelTable& kernels, int64_t step) {
  constexpr int64_t kFloats = 1024, kWays = 8;
  return kernels.gemm.mr > kWays && step != 0 && step % kFloats == 0;
}

struct RowsGemm {
  const KernelTable* kernels;
  int64_t m;            // rows of dst
  int64_t taps, depth;  // every row of the left matrix is `taps` runs of `depth` floats
  int64_t groups, n;    // columns per group
  const float* weight;  // panels, see GemmArgs
  const float* weight_end;
  int64_t group_stride;  // floats of weight per group
  float* dst;
  int64_t dst_stride;
  Epilogue epilogue;
  int threads;         // at most
  int64_t row_step;    // for a single tap: floats between neighbouring rows of the left matrix; else 0
  const float* zeros;  // what taps in the padding point at, or null: then none is left out
  bool padded;         // whether some taps are in the padding

  // Whether it pays to look for taps that can be skipped. An estimate: looking costs a few cycles per pointer.
  bool leaves_out() const { return padded && taps > 1 && taps <= PaddingTiles::kMostTaps && depth * n >= 1024; }

  // Whether blocks of rows are copied. Those that few panels read are not worth it: copies of rows 4 KB apart gained
  // for 8 panels and more (1.1 to 1.2 times as fast), copies of rows 2 KB apart lost for 2 to 5.
  bool copies_rows() const {
    constexpr int64_t kPanels = 8;
    return taps == 1 && groups == 1 && is_aliased(*kernels, row_step) && m >= kernels->gemm.mr &&
           n >= kPanels * kernels->gemm.nr;
  }
  int64_t copied_floats() const { return depth + kSpreadFloats; }
};

// A convolution as a matrix product: a row per output pixel, C / groups deep at each tap.
inline RowsGemm conv2d_gemm(const Conv2dDesc& d, const Conv2dArgs& args) {
  RowsGemm p{};
  p.kernels = &args.weight->kernels();
  p.m = d.pixels();
  p.taps = d.taps();
  p.depth = d.c_per_group();
  p.groups = d.groups;
  p.n = d.o_per_group();
  p.weight = args.weight->data();
  p.weight_end = args.weight->end();
  p.group_stride = args.weight->group_stride();
  p.dst = args.dst;
  p.dst_stride = args.dst_stride;
  p.epilogue = args.epilogue;
  p.threads = args.threads;
  const Window& w = d.window;
  p.padded = w.top > 0 || w.bottom > 0 || w.left > 0 || w.right > 0;
  if (p.taps == 1) p.row_step = d.c * w.stride[1];
  return p;
}

// Pointers for `count` output pixels from `first` of a convolution of channels-last images: rows[tap * count + i]. Taps
// in the padding point at `zeros`, which has as many floats as the input has channels.
void fill_pixel_rows(const Conv2dDesc& d, const float* src, const float* zeros, int64_t first, int64_t count,
                     const float** rows);

// The same for the taps of one kernel row, for `run` pixels of an output row from column `first`: rows[s * count + i].
// `row` is the input row, or null where that lies in the padding.
void fill_tap_rows(const Conv2dDesc& d, const float* row, const float* zeros, int64_t first, int64_t run, int64_t count,
                   const float** rows);

// Rows per block: enough to reuse each weight panel several times while the panel is in the cache, few enough that the
// block's input stays in the second-level cache beside it. The fraction is not tuned. For long sums the input is that
// of one block of the sum; weights that are read once per block of rows call for twice as many.
inline int64_t rows_per_block(const RowsGemm& p) {
  const auto& gemm = p.kernels->gemm;
  const int64_t steps = p.taps * p.depth;
  const bool is_long = steps > gemm.long_sum;
  const int64_t fit = second_level_floats(4) / ((is_long ? gemm.sum_block : steps) * gemm.mr);
  return std::clamp<int64_t>(fit, is_long ? 8 : 4, 16) * gemm.mr;
}

// How a product is split among threads, and the scratch of a run.
struct RowsGemmParts {
  int threads;
  int64_t units;  // what can be split along the columns
  int64_t column_parts, row_parts;
  int64_t block;                 // rows of a part, at most
  const float** pointers;        // taps * block for each thread
  float* copies;                 // of `block` rows for each thread, if they are copied
  PaddingTiles::Memory tiles{};  // `block` and `block + 1` for each thread, if taps may be left out

  RowsGemmParts(const RowsGemm& p, Scratch& scratch) {
    units = p.groups > 1 ? p.groups : ceil_div(p.n, p.kernels->gemm.nr);
    threads = threads_for(p.m * p.n * p.groups * p.taps * p.depth, p.threads);
    // Few rows: each thread takes columns, so that the weights are read only once. Many: each takes blocks of rows, and
    // finds most of its input in its own cache, where it wrote it in the layer before (ResNet-50's layers of 28 x 28
    // and 14 x 14 with two threads: 1.1 to 1.3 times as fast as by columns; EPYC Zen 5, 2026-11-21).
    const int64_t blocks_of_rows = ceil_div(p.m, rows_per_block(p));
    const bool by_columns = p.m < 4 * threads * p.kernels->gemm.mr && units >= threads;
    column_parts = by_columns ? threads : 1;
    row_parts = by_columns ? blocks_of_rows : round_up(blocks_of_rows, threads);
    block = ceil_div(p.m, row_parts);
    pointers = scratch.take<const float*>(checked_mul(checked_mul(threads, p.taps), block));
    copies = scratch.take<float>(p.copies_rows() ? checked_mul(checked_mul(threads, block), p.copied_floats()) : 0);
    if (!p.leaves_out()) return;
    tiles.seen = scratch.take<PaddingTiles::Taps>(checked_mul(threads, block));
    tiles.tiles = scratch.take<int64_t>(checked_mul(threads, block + 1));
  }
};

// Copies rows of one tap to where they do not evict each other from the cache, and makes the pointers point at the
// copies.
inline void copy_rows(const RowsGemm& p, int64_t count, const float** rows, float* to) noexcept {
  for (int64_t i = 0; i < count; ++i, to += p.copied_floats()) {
    std::memcpy(to, rows[i], sizeof(float) * p.depth);
    rows[i] = to;
  }
}

// fill(first, count, rows) writes rows[tap * count + i] for the `count` rows from `first`; noexcept.
template <class FillRows>
void rows_gemm(const RowsGemm& p, Scratch& scratch, const FillRows& fill) {
  const RowsGemmParts parts(p, scratch);
  const int64_t units = parts.units, column_parts = parts.column_parts, row_parts = parts.row_parts;
  const int64_t block = parts.block;
  const float** const pointers = parts.pointers;

  parallel_for(row_parts * column_parts, parts.threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    const float** rows = pointers + thread * p.taps * block;
    int64_t filled = -1;
    std::optional<PaddingTiles> tiles;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row_part = task % row_parts, column_part = task / row_parts;
      const int64_t first = p.m * row_part / row_parts, count = p.m * (row_part + 1) / row_parts - first;
      if (count == 0) continue;
      if (filled != row_part) {
        fill(first, count, rows);
        if (p.copies_rows()) copy_rows(p, count, rows, parts.copies + thread * block * p.copied_floats());
        if (p.leaves_out())
          tiles.emplace(
              rows, p.taps, count, p.zeros, p.kernels->gemm.mr,
              PaddingTiles::Memory{parts.tiles.seen + thread * block, parts.tiles.tiles + thread * (block + 1)});
      }
      filled = row_part;
      const int64_t unit_begin = units * column_part / column_parts,
                    unit_end = units * (column_part + 1) / column_parts;
      const int64_t group_begin = p.groups > 1 ? unit_begin : 0, group_end = p.groups > 1 ? unit_end : 1;
      const int64_t column = p.groups > 1 ? 0 : unit_begin * p.kernels->gemm.nr;
      const int64_t column_end = p.groups > 1 ? p.n : std::min(p.n, unit_end * p.kernels->gemm.nr);
      for (int64_t group = group_begin; group < group_end; ++group) {
        const int64_t channel = group * p.n + column;
        GemmArgs args{};
        args.rows = rows;
        args.rows_stride = count;
        args.row_offset = group * p.depth;
        args.m = count;
        args.n = column_end - column;
        args.taps = p.taps;
        args.depth = p.depth;
        args.weight_end = p.weight_end;
        if (tiles) args.zeros = p.zeros;
        if (tiles && tiles->is_better()) {
          args.tiles = tiles->begins();
          args.tile_count = tiles->count();
        }
        args.weight = p.weight + group * p.group_stride + column * p.taps * p.depth;
        args.dst = p.dst + first * p.dst_stride + channel;
        args.dst_stride = p.dst_stride;
        args.epilogue = p.epilogue;
        if (p.epilogue.bias != nullptr) args.epilogue.bias += channel;
        if (p.epilogue.residual != nullptr) args.epilogue.residual += first * p.epilogue.residual_stride + channel;
        p.kernels->gemm.run(args);
      }
    }
  });
}

}  // namespace convlane
