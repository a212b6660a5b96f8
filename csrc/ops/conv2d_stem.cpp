// The first layer of a network: few input channels (a picture has 3), a kernel of 3x3 to 11x11.
//
// With channels last, one row of the kernel meets KW * C contiguous floats of the input, so the product has KH taps
// of depth KW * C instead of KH * KW taps of depth C. For that to hold at the borders, the rows that a band of output
// rows needs are first copied into per-thread scratch with their padding. The copy reads any layout, so an NCHW
// picture needs no conversion of its own. For a dilated kernel, columns of one residue are stored together, so that
// its taps are neighbours.
#include "ops/conv2d_stem.h"

#include <cstring>

#include "ops/parallel.h"
#include "runtime/machine.h"

namespace convlane {
namespace {

// Rows of the padded image.
struct Band {
  int64_t first_row, rows;
  int64_t width;  // floats per row
};

// Columns of the padded image with one residue modulo the dilation.
int64_t residue_columns(const Conv2dDesc& d) {
  return ceil_div(d.w + d.window.left + d.window.right, d.window.dilation[1]);
}

// Floats of a row of a band.
int64_t padded_width(const Conv2dDesc& d) { return residue_columns(d) * d.window.dilation[1] * d.c; }

// The offset of a column of the padded image in such a row.
int64_t column_offset(const Conv2dDesc& d, int64_t column) {
  const int64_t dilation = d.window.dilation[1];
  return (column % dilation * residue_columns(d) + column / dilation) * d.c;
}

// Padded rows needed for `rows` rows of output.
int64_t padded_rows(const Conv2dDesc& d, int64_t rows) {
  return (rows - 1) * d.window.stride[0] + (d.kh() - 1) * d.window.dilation[0] + 1;
}

// Planes to pixels. With a constant number of channels the compiler generates shuffles.
template <int C>
void interleave(const float* src, int64_t plane, int64_t count, float* dst) {
  for (int64_t x = 0; x < count; ++x)
    for (int c = 0; c < C; ++c) dst[x * C + c] = src[c * plane + x];
}

// A row of the image, padded, with its columns sorted by residue modulo the dilation.
void copy_by_residue(const Conv2dDesc& d, const float* from, const ImageView& src, float* dst) {
  const int64_t step = d.window.dilation[1], columns = residue_columns(d);
  for (int64_t residue = 0; residue < step; ++residue, dst += columns * d.c) {
    const int64_t first = residue - d.window.left;  // column of the image
    const Range inside = valid_outputs(first, step, d.w, columns);
    std::memset(dst, 0, sizeof(float) * inside.begin * d.c);
    for (int64_t c = 0; c < d.c; ++c) {
      const float* at = from + first * src.strides[3] + c * src.strides[1];
      for (int64_t x = inside.begin; x < inside.end; ++x) dst[x * d.c + c] = at[x * step * src.strides[3]];
    }
    std::memset(dst + inside.end * d.c, 0, sizeof(float) * (columns - inside.end) * d.c);
  }
}

void copy_band(const Conv2dDesc& d, const ImageView& src, const Band& band, float* dst) {
  for (int64_t y = 0; y < band.rows; ++y, dst += band.width) {
    const int64_t ih = band.first_row + y - d.window.top;
    if (src.data == nullptr || ih < 0 || ih >= d.h) {
      std::memset(dst, 0, sizeof(float) * band.width);
      continue;
    }
    const float* from = src.data + ih * src.strides[2];
    if (d.window.dilation[1] > 1) {
      copy_by_residue(d, from, src, dst);
      continue;
    }
    float* to = dst + d.window.left * d.c;
    std::memset(dst, 0, sizeof(float) * d.window.left * d.c);
    std::memset(to + d.w * d.c, 0, sizeof(float) * d.window.right * d.c);
    if (src.strides[1] == 1 && src.strides[3] == d.c) {
      std::memcpy(to, from, sizeof(float) * d.w * d.c);
    } else if (d.c == 3 && src.strides[3] == 1) {
      interleave<3>(from, src.strides[1], d.w, to);
    } else {
      for (int64_t c = 0; c < d.c; ++c)
        for (int64_t x = 0; x < d.w; ++x) to[x * d.c + c] = from[x * src.strides[3] + c * src.strides[1]];
    }
  }
}

}  // namespace

// The input under a band fits in the second-level cache, with room for the weights.
int64_t stem_band_rows(const Conv2dDesc& d, int64_t slices) {
  const int64_t fit = (second_level_floats(8) / slices / padded_width(d) - d.kh()) / d.window.stride[0] + 1;
  return std::clamp<int64_t>(fit, 1, std::min<int64_t>(d.oh, 16));
}

StemMemory::StemMemory(const Conv2dDesc& d, int64_t rows, int threads, Scratch& scratch, int64_t count)
    : slices(count),
      slice_floats(round_up(checked_mul(padded_rows(d, rows), padded_width(d)), 16)),
      own_floats(checked_mul(slices, slice_floats)),
      own_pointers(checked_mul(rows, d.ow)),
      own_taps(checked_mul(slices, d.kh())),
      floats(scratch.take<float>(checked_mul(threads, own_floats))),
      pointers(scratch.take<const float*>(checked_mul(threads, own_pointers))),
      taps(scratch.take<int64_t>(checked_mul(threads, own_taps))) {}

// Every band has its input at the same address, so the pointers are the same for all of them.
StemBands::StemBands(const Conv2dDesc& d, const Conv2dArgs& args, int64_t rows, const StemMemory& memory, int thread)
    : d_(d),
      args_(args),
      rows_(rows),
      slices_(memory.slices),
      slice_floats_(memory.slice_floats),
      padded_(memory.floats + thread * memory.own_floats),
      pointers_(memory.pointers + thread * memory.own_pointers),
      taps_(memory.taps + thread * memory.own_taps) {
  const Window& w = d.window;
  const int64_t width = padded_width(d);
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < d.ow; ++x)
      pointers_[y * d.ow + x] = padded_ + y * w.stride[0] * width + column_offset(d, x * w.stride[1]);
  for (int64_t a = 0; a < slices_; ++a)
    for (int64_t r = 0; r < d.kh(); ++r) taps_[a * d.kh() + r] = a * slice_floats_ + r * w.dilation[0] * width;
}

void StemBands::run(int64_t image, int64_t first, int64_t count, float* dst, int64_t dst_stride) const {
  ImageView slice = args_.src;
  slice.data += image * slice.strides[0];
  run(&slice, (image * d_.oh + first) * d_.ow, first, count, dst, dst_stride);
}

void StemBands::run(const ImageView* slices, int64_t pixel, int64_t first, int64_t count, float* dst,
                    int64_t dst_stride) const {
  const Conv2dDesc& d = d_;
  const Band band{first * d.window.stride[0], padded_rows(d, count), padded_width(d)};
  for (int64_t a = 0; a < slices_; ++a) copy_band(d, slices[a], band, padded_ + a * slice_floats_);
  StemArgs g{};
  g.rows = pointers_;
  g.m = count * d.ow;
  g.n = d.o;
  g.taps = taps_;
  g.tap_count = slices_ * d.kh();
  g.depth = d.kw() * d.c;
  g.weight = args_.weight->data();
  g.dst = dst;
  g.dst_stride = dst_stride;
  g.epilogue = args_.epilogue;
  if (g.epilogue.residual != nullptr) g.epilogue.residual += pixel * g.epilogue.residual_stride;
  args_.weight->kernels().stem(g);
}

std::string refuse_stem(const Conv2dDesc& d) {
  if (d.groups != 1) return "there is more than one group";
  if (d.c > 4) return "there are " + std::to_string(d.c) + " input channels, more than 4";
  if (d.kw() == 1) return "the kernel is one column wide: nothing to merge";
  return "";
}

void reserve_stem(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  StemMemory(d, stem_band_rows(d), threads_for(d.multiply_adds(), args.threads), scratch);
}

void run_stem(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  const int threads = threads_for(d.multiply_adds(), args.threads);
  const int64_t rows = stem_band_rows(d);
  const StemMemory memory(d, rows, threads, scratch);
  parallel_for(
      d.n * d.oh, threads,
      [&](int64_t begin, int64_t end, int thread) noexcept {
        const StemBands bands(d, args, rows, memory, thread);
        for_bands(begin, end, d.oh, rows, [&](int64_t image, int64_t first, int64_t count) {
          bands.run(image, first, count, args.dst + (image * d.oh + first) * d.ow * args.dst_stride, args.dst_stride);
        });
      },
      kWhole);
}

}  // namespace convlane
