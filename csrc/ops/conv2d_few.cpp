// Convolutions with too few channels for the matrix kernel, which has one output channel in each lane:
//   - grouped: small groups share a vector, and each lane reads the inputs of its own group;
//   - narrow: many channels to a few; each sum is spread over the lanes of a vector, along the input channels;
//   - planes: a few channels to a few, along the pixels of a row. The rows that a band of output rows needs are copied
//     into planes of one channel, with their padding. With a stride, columns of one residue are stored together.
#include <algorithm>
#include <cstring>

#include "ops/conv2d.h"
#include "ops/parallel.h"
#include "ops/rows_gemm.h"

namespace convlane {
namespace {

constexpr int64_t kFewOutputs = 4, kFewInputs = 16, kSmallGroup = 8;

// The pixels whose taps are pointed at together, block by block.
struct PixelBlocks {
  static constexpr int64_t kPixels = 96;  // whole tiles of each kernel
  int threads;
  int64_t count, pointers;  // number of blocks, and pointers of each thread
  float* zeros;
  const float** rows;

  PixelBlocks(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch)
      : threads(threads_for(d.multiply_adds(), args.threads)),
        count(ceil_div(d.pixels(), kPixels)),
        pointers(checked_mul(d.taps(), kPixels)),
        zeros(scratch.take<float>(d.c)),
        rows(scratch.take<const float*>(checked_mul(threads, pointers))) {}

  // Calls body(first, count, rows) for each block; body is noexcept.
  template <class Body>
  void run(const Conv2dDesc& d, const Conv2dArgs& args, const Body& body) const {
    std::memset(zeros, 0, sizeof(float) * d.c);
    parallel_for(count, threads, [&](int64_t begin, int64_t end, int thread) noexcept {
      const float** own = rows + thread * pointers;
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * kPixels, pixels = std::min(kPixels, d.pixels() - first);
        fill_pixel_rows(d, args.src.data, zeros, first, pixels, own);
        body(first, pixels, own);
      }
    });
  }
};

// The epilogue of the channels from `channel` on, for the pixels from `pixel` on.
Epilogue part_of(const Epilogue& whole, int64_t pixel, int64_t channel) {
  Epilogue e = whole;
  if (e.bias != nullptr) e.bias += channel;
  if (e.residual != nullptr) e.residual += pixel * e.residual_stride + channel;
  return e;
}

// The bands of a convolution in planes. A plane is [padded row][column modulo stride][column / stride].
struct Planes {
  int64_t rows;        // of output in a band, at most
  int64_t width, row;  // floats of one residue, and of a row with all of them
  int64_t plane;       // floats of a channel
  int64_t out;         // floats of a row of one output channel
  int threads;
  int64_t own, pointers;  // floats and pointers of each thread
  float* floats;
  const float** taps;

  Planes(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
    constexpr int64_t kBandFloats = 16 * 1024, kMostLanes = 16;
    const Window& w = d.window;
    width = round_up(d.ow + (d.kw() - 1) * w.dilation[1] / w.stride[1] + 1 + kMostLanes, kMostLanes);
    row = width * w.stride[1];
    const int64_t reach = (d.kh() - 1) * w.dilation[0] + 1;
    rows = std::clamp<int64_t>((kBandFloats / (row * d.c) - reach) / w.stride[0] + 1, 1, std::min<int64_t>(d.oh, 16));
    plane = checked_mul((rows - 1) * w.stride[0] + reach, row);
    out = round_up(d.ow, kMostLanes);
    threads = threads_for(d.multiply_adds(), args.threads);
    own = checked_add(checked_mul(plane, d.c), checked_mul(d.o, out + d.ow));
    pointers = checked_mul(d.c, d.taps());
    floats = scratch.take<float>(checked_mul(threads, own));
    taps = scratch.take<const float*>(checked_mul(threads, pointers));
  }
};

// Copies padded rows from `first` on into planes.
void copy_planes(const Conv2dDesc& d, const ImageView& src, int64_t image, int64_t first, int64_t rows,
                 const Planes& planes, float* dst) {
  const int64_t stride = d.window.stride[1];
  for (int64_t c = 0; c < d.c; ++c) {
    for (int64_t y = 0; y < rows; ++y) {
      const int64_t ih = first + y - d.window.top;
      float* row = dst + c * planes.plane + y * planes.row;
      const float* from = src.data + image * src.strides[0] + c * src.strides[1] + ih * src.strides[2];
      for (int64_t residue = 0; residue < stride; ++residue, row += planes.width) {
        Range inside = valid_outputs(residue - d.window.left, stride, d.w, planes.width);
        if (ih < 0 || ih >= d.h) inside = {planes.width, planes.width};
        std::memset(row, 0, sizeof(float) * inside.begin);
        const int64_t step = stride * src.strides[3];
        const float* at = from + (residue - d.window.left) * src.strides[3];
        if (step == 1)
          std::copy_n(at + inside.begin, inside.end - inside.begin, row + inside.begin);
        else
          for (int64_t x = inside.begin; x < inside.end; ++x) row[x] = at[x * step];
        std::memset(row + inside.end, 0, sizeof(float) * (planes.width - inside.end));
      }
    }
  }
}

}  // namespace

int64_t groups_in_vector(const Shape4& weight, int64_t groups, int64_t lanes) {
  return lanes / std::max(weight[0] / groups, weight[1]);
}

void fill_group_index(const Conv2dDesc& d, const PackedWeight& weight, std::int32_t* index) {
  const int64_t lanes = weight.kernels().lanes, inputs = d.c_per_group(), outputs = d.o_per_group();
  for (int64_t k = 0; k < inputs; ++k)
    for (int64_t lane = 0; lane < lanes; ++lane)
      index[k * lanes + lane] = static_cast<std::int32_t>(std::min(lane / outputs, weight.together() - 1) * inputs + k);
}

std::string refuse_grouped(const Conv2dDesc& d) {
  if (d.groups == 1) return "there is only one group";
  const int64_t most = std::max(d.c_per_group(), d.o_per_group());
  if (most > kSmallGroup)
    return "a group has " + std::to_string(most) + " channels, more than " + std::to_string(kSmallGroup);
  return "";
}

std::string refuse_narrow(const Conv2dDesc& d) {
  if (d.groups != 1) return "there is more than one group";
  if (d.o > kFewOutputs)
    return "there are " + std::to_string(d.o) + " output channels, more than " + std::to_string(kFewOutputs);
  return "";
}

std::string refuse_planes(const Conv2dDesc& d) {
  if (const std::string refusal = refuse_narrow(d); !refusal.empty()) return refusal;
  if (d.c >= kFewInputs)
    return "there are " + std::to_string(d.c) + " input channels, more than " + std::to_string(kFewInputs - 1);
  return "";
}

void reserve_grouped(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  if (args.weight->layout() != WeightLayout::grouped) return reserve_direct(d, args, scratch);
  PixelBlocks(d, args, scratch);
  scratch.take<std::int32_t>(d.c_per_group() * args.weight->kernels().lanes);
}

void run_grouped(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  const PackedWeight& weight = *args.weight;
  if (weight.layout() != WeightLayout::grouped) return run_direct(d, args, scratch);
  const PixelBlocks blocks(d, args, scratch);
  const int64_t inputs = d.c_per_group(), outputs = d.o_per_group(), together = weight.together();
  std::int32_t* index = scratch.take<std::int32_t>(inputs * weight.kernels().lanes);
  fill_group_index(d, weight, index);
  blocks.run(d, args, [&](int64_t first, int64_t count, const float** rows) noexcept {
    for (int64_t group = 0; group < d.groups; group += together) {
      const int64_t here = std::min(together, d.groups - group);
      GroupedArgs g{};
      g.rows = rows;
      g.rows_stride = g.m = count;
      g.row_offset = group * inputs;
      g.taps = d.taps();
      g.depth = inputs;
      g.inputs = here * inputs;
      g.outputs = here * outputs;
      g.index = index;
      g.weight = weight.data() + group / together * weight.group_stride();
      g.dst = args.dst + first * args.dst_stride + group * outputs;
      g.dst_stride = args.dst_stride;
      g.epilogue = part_of(args.epilogue, first, group * outputs);
      weight.kernels().grouped(g);
    }
  });
}

void reserve_narrow(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) { PixelBlocks(d, args, scratch); }

void run_narrow(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  const PixelBlocks blocks(d, args, scratch);
  blocks.run(d, args, [&](int64_t first, int64_t count, const float** rows) noexcept {
    GemmArgs g{};
    g.rows = rows;
    g.rows_stride = g.m = count;
    g.n = d.o;
    g.taps = d.taps();
    g.depth = d.c;
    g.weight = args.weight->data();
    g.dst = args.dst + first * args.dst_stride;
    g.dst_stride = args.dst_stride;
    g.epilogue = part_of(args.epilogue, first, 0);
    args.weight->kernels().dot_rows(g);
  });
}

void reserve_planes(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) { Planes(d, args, scratch); }

void run_planes(const Conv2dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  const Planes planes(d, args, scratch);
  const Window& w = d.window;
  const KernelTable& kernels = args.weight->kernels();
  const Epilogue& e = args.epilogue;
  const auto bands = [&](int64_t begin, int64_t end, int thread) noexcept {
    float* own = planes.floats + thread * planes.own;
    float *sums = own + d.c * planes.plane, *pixels = sums + d.o * planes.out;
    const float** taps = planes.taps + thread * planes.pointers;
    for_bands(begin, end, d.oh, planes.rows, [&](int64_t image, int64_t first, int64_t count) {
      const int64_t inputs = (count - 1) * w.stride[0] + (d.kh() - 1) * w.dilation[0] + 1;
      copy_planes(d, args.src, image, first * w.stride[0], inputs, planes, own);
      for (int64_t y = 0; y < count; ++y) {
        int64_t tap = 0;
        for (int64_t c = 0; c < d.c; ++c)
          for (int64_t r = 0; r < d.kh(); ++r)
            for (int64_t s = 0; s < d.kw(); ++s) {
              const int64_t column = s * w.dilation[1];
              taps[tap++] = own + c * planes.plane + (y * w.stride[0] + r * w.dilation[0]) * planes.row +
                            column % w.stride[1] * planes.width + column / w.stride[1];
            }
        kernels.convolve_planes({taps, tap, args.weight->data(), e.bias, d.ow, d.o, sums, planes.out});
        const int64_t pixel = (image * d.oh + first + y) * d.ow;
        for (int64_t x = 0; x < d.ow; ++x)
          for (int64_t o = 0; o < d.o; ++o) {
            pixels[x * d.o + o] = sums[o * planes.out + x];
            if (e.residual != nullptr) pixels[x * d.o + o] += e.residual[(pixel + x) * e.residual_stride + o];
          }
        float* dst = args.dst + pixel * args.dst_stride;
        const bool dense = args.dst_stride == d.o;
        kernels.activate(pixels, dense ? dst : pixels, d.ow * d.o, e.activation, e.slope);
        for (int64_t x = 0; !dense && x < d.ow; ++x) std::copy_n(pixels + x * d.o, d.o, dst + x * args.dst_stride);
      }
    });
  };
  parallel_for(d.n * d.oh, planes.threads, bands, kWhole);
}

}  // namespace convlane
