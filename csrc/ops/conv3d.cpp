// Convolution of volumes: checks, and the choice between a convolution of images and three algorithms for volumes.
//
// The three treat the slices of the kernel as further rows of it, and sum over depth, height, width and channels in
// this order. Direct convolution just points at more pixels; convolution of few channels points at the bands of several
// slices. Depthwise convolution passes one output row after the other to the kernel, with the input rows of all slices.
// Where Winograd's algorithms are permitted, a volume can also be a sum of convolutions of its slices, as images.
#include "ops/conv3d.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "ops/conv2d_stem.h"
#include "ops/parallel.h"
#include "ops/rows_gemm.h"

namespace convlane {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("conv3d: " + what); }

void check_positive(const char* name, const Triple& value) {
  if (*std::min_element(value.begin(), value.end()) < 1)
    refuse(std::string(name) + " must be at least 1, got " + to_string(value));
}

// The input slice that tap `a` of an output slice reads; in the padding if it is outside [0, d).
int64_t slice_of(const Conv3dDesc& d, int64_t od, int64_t a) { return od * d.stride - d.front + a * d.dilation; }

RowsGemm conv3d_gemm(const Conv3dDesc& d, const Conv2dArgs& args) {
  RowsGemm p = conv2d_gemm(d.slice, args);
  p.m = d.voxels();
  p.taps = d.taps();
  p.padded = p.padded || d.front > 0 || d.back > 0;
  return p;
}

// As fill_pixel_rows.
void fill_voxel_rows(const Conv3dDesc& d, const float* src, const float* zeros, int64_t first, int64_t count,
                     const float** rows) {
  const Conv2dDesc& slice = d.slice;
  const Window& w = slice.window;
  for (int64_t done = 0; done < count;) {
    const int64_t voxel = first + done, ow = voxel % slice.ow, oh = voxel / slice.ow % slice.oh;
    const int64_t od = voxel / (slice.ow * slice.oh) % d.od, volume = voxel / (slice.ow * slice.oh * d.od);
    const int64_t run = std::min(count - done, slice.ow - ow);
    const float** to = rows + done;
    for (int64_t a = 0; a < d.kernel; ++a) {
      const int64_t id = slice_of(d, od, a);
      for (int64_t r = 0; r < slice.kh(); ++r, to += slice.kw() * count) {
        const int64_t ih = oh * w.stride[0] - w.top + r * w.dilation[0];
        const bool inside = id >= 0 && id < d.d && ih >= 0 && ih < slice.h;
        const float* row = inside ? src + ((volume * d.d + id) * slice.h + ih) * slice.w * slice.c : nullptr;
        fill_tap_rows(slice, row, zeros, ow, run, count, to);
      }
    }
    done += run;
  }
}

void run_direct_3d(const Conv3dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  float* zeros = scratch.take<float>(d.slice.c);
  std::memset(zeros, 0, sizeof(float) * d.slice.c);
  RowsGemm p = conv3d_gemm(d, args);
  p.zeros = zeros;
  rows_gemm(p, scratch, [&](int64_t first, int64_t count, const float** rows) noexcept {
    fill_voxel_rows(d, args.src.data, zeros, first, count, rows);
  });
}

// The scratch of convolution of few channels: the slices that each thread convolves, and their bands.
struct StemSlices {
  int threads;
  int64_t rows;
  ImageView* slices;
  StemMemory memory;

  StemSlices(const Conv3dDesc& d, int limit, Scratch& scratch)
      : threads(threads_for(d.multiply_adds(), limit)),
        rows(stem_band_rows(d.slice, d.kernel)),
        slices(scratch.take<ImageView>(checked_mul(threads, d.kernel))),
        memory(d.slice, rows, threads, scratch, d.kernel) {}
};

void run_stem_3d(const Conv3dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  const Conv2dDesc& slice = d.slice;
  const StemSlices s(d, args.threads, scratch);
  parallel_for(
      slice.n * d.od * slice.oh, s.threads,
      [&](int64_t begin, int64_t end, int thread) noexcept {
        const StemBands bands(slice, args, s.rows, s.memory, thread);
        ImageView* slices = s.slices + thread * d.kernel;
        for_bands(begin, end, slice.oh, s.rows, [&](int64_t image, int64_t first, int64_t count) {
          for (int64_t a = 0; a < d.kernel; ++a) {
            const int64_t id = slice_of(d, image % d.od, a);
            slices[a] = args.src;
            slices[a].data += image / d.od * args.src.strides[0] + id * slice.h * args.src.strides[2];
            if (id < 0 || id >= d.d) slices[a].data = nullptr;
          }
          const int64_t pixel = (image * slice.oh + first) * slice.ow;
          bands.run(slices, pixel, first, count, args.dst + pixel * args.dst_stride, args.dst_stride);
        });
      },
      kWhole);
}

// The scratch of depthwise convolution: a row of zeros, and pointers to the input rows of each thread.
struct DepthwiseRows {
  int threads;
  int64_t count;
  float* zeros;
  const float** pointers;

  DepthwiseRows(const Conv3dDesc& d, int limit, Scratch& scratch)
      : threads(threads_for(d.multiply_adds(), limit)),
        count(d.kernel * d.slice.kh()),
        zeros(scratch.take<float>(d.slice.w * d.slice.c)),
        pointers(scratch.take<const float*>(checked_mul(threads, count))) {}
};

void run_depthwise_3d(const Conv3dDesc& d, const Conv2dArgs& args, Scratch& scratch) {
  const Conv2dDesc& slice = d.slice;
  const Window& w = slice.window;
  const DepthwiseRows memory(d, args.threads, scratch);
  const int64_t width = slice.w * slice.c;
  std::memset(memory.zeros, 0, sizeof(float) * width);
  parallel_for(slice.n * d.od * slice.oh, memory.threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    const float** rows = memory.pointers + thread * memory.count;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t oh = row % slice.oh, od = row / slice.oh % d.od, volume = row / (slice.oh * d.od);
      for (int64_t i = 0; i < memory.count; ++i) {
        const int64_t id = slice_of(d, od, i / slice.kh());
        const int64_t ih = oh * w.stride[0] - w.top + i % slice.kh() * w.dilation[0];
        const bool inside = id >= 0 && id < d.d && ih >= 0 && ih < slice.h;
        rows[i] = inside ? args.src.data + ((volume * d.d + id) * slice.h + ih) * width : memory.zeros;
      }
      DepthwiseArgs k = depthwise_args(slice, *args.weight, args.epilogue);
      k.rows = rows;
      k.zeros = memory.zeros;
      k.out_rows = 1;
      k.kernel_h = memory.count;
      k.stride_h = k.dilation_h = 1;
      k.dst = args.dst + row * slice.ow * args.dst_stride;
      k.dst_stride = args.dst_stride;
      if (k.epilogue.residual != nullptr) k.epilogue.residual += row * slice.ow * k.epilogue.residual_stride;
      args.weight->kernels().depthwise(k);
    }
  });
}

// Goes through the output slices in runs that meet input slices with the same slices of the kernel, [tap, end):
// body(first output slice, count, tap, end). For a stride of 1.
template <class Body>
void for_slices(const Conv3dDesc& d, const Body& body) {
  const auto taps_of = [&d](int64_t od) {
    int64_t tap = 0, end = d.kernel;
    while (tap < end && slice_of(d, od, tap) < 0) ++tap;
    while (tap < end && slice_of(d, od, end - 1) >= d.d) --end;
    return Pair{tap, end};
  };
  for (int64_t od = 0, count = 1; od < d.od; od += count, count = 1) {
    const Pair taps = taps_of(od);
    while (od + count < d.od && taps_of(od + count) == taps) ++count;
    body(od, count, taps[0], taps[1]);
  }
}

Conv2dDesc images_of(const Conv3dDesc& d, int64_t count) {
  Conv2dDesc images = d.slice;
  images.n = count;
  return images;
}

// The scratch of the most demanding of the convolutions that are summed.
int64_t slices_bytes(const Conv3dDesc& d, const Conv2dAlgorithm& algorithm, const Conv2dArgs& args) {
  int64_t most = 0;
  for_slices(d, [&](int64_t, int64_t count, int64_t, int64_t) {
    Scratch counted;
    reserve_conv2d(algorithm, images_of(d, count), args, false, counted);
    most = std::max(most, counted.bytes());
  });
  return most;
}

struct Way {
  const char* name;
  Conv3dWay way;
  WeightLayout layout;
};
constexpr Way kWays[] = {{"depthwise", Conv3dWay::depthwise, WeightLayout::depthwise},
                         {"stem", Conv3dWay::stem, WeightLayout::panels},
                         {"winograd4", Conv3dWay::winograd4, WeightLayout::winograd4},
                         {"winograd2", Conv3dWay::winograd2, WeightLayout::winograd2},
                         {"direct", Conv3dWay::direct, WeightLayout::panels}};

bool is_winograd(Conv3dWay way) { return way == Conv3dWay::winograd4 || way == Conv3dWay::winograd2; }

// Why an algorithm cannot compute a convolution that is not one of images; empty if it can.
std::string refusal_of(Conv3dWay way, const Conv3dDesc& d) {
  switch (way) {
    case Conv3dWay::depthwise:
      if (const std::string refusal = refuse_depthwise(d.slice); !refusal.empty()) return refusal;
      return d.slice.o_per_group() == 1 ? "" : "there is more than one filter for each channel";
    case Conv3dWay::stem:
      return refuse_stem(d.slice);
    case Conv3dWay::winograd4:
    case Conv3dWay::winograd2:
      if (const std::string refusal = refuse_winograd(d.slice); !refusal.empty()) return refusal;
      if (d.slice.groups != 1) return "there is more than one group";
      if (d.stride != 1) return "the stride along the depth is " + std::to_string(d.stride) + ", not 1";
      return sums_slices(d) ? "" : "there are output slices that meet padding alone";
    default:
      return "";
  }
}

const Way& find_way(const std::string& name) {
  std::string known = "auto";
  for (const Way& each : kWays) {
    if (name == each.name) return each;
    known += ", " + std::string(each.name);
  }
  refuse("unknown algorithm '" + name + "'; for kernels that are not flat there are " + known);
}

[[noreturn]] void refuse_algorithm(const std::string& name, const std::string& why) {
  refuse("algorithm '" + name + "' cannot do this: " + why);
}

void check_algorithm(const Conv2dDesc& images, const std::string& name) {
  if (name == "auto") return;
  if (const std::string why = find_conv2d_algorithm(name).refusal(images); !why.empty()) refuse_algorithm(name, why);
}

}  // namespace

Conv3dDesc describe_conv3d(const Shape5& input, const Shape5& weight, const Triple& stride, const Faces& padding,
                           const Triple& dilation, int64_t groups) {
  const auto [n, c, d, h, w] = input;
  const auto [o, i, kd, kh, kw] = weight;
  check_channels("conv3d", input.data(), weight.data(), 5, groups);
  check_positive("kernel size", {kd, kh, kw});
  check_positive("stride", stride);
  check_positive("dilation", dilation);
  if (*std::min_element(padding.begin(), padding.end()) < 0)
    refuse("padding must not be negative, got (front, back, top, bottom, left, right) = " + to_string(padding));
  const int64_t padded = checked_add(d, checked_add(padding[0], padding[1]));
  const int64_t reach = checked_add(checked_mul(kd - 1, dilation[0]), 1);
  if (d < 1 || padded < reach)
    refuse("the padded input has a depth of " + std::to_string(padded) + ", smaller than the kernel's reach " +
           std::to_string(reach));
  Conv2dDesc slice{};
  slice.window = window_of({stride[1], stride[2]}, {padding[2], padding[3], padding[4], padding[5]},
                           {dilation[1], dilation[2]}, {kh, kw});
  const auto [oh, ow] = window_output("conv3d", slice.window, h, w);
  const Window along = window_of({stride[0], 1}, {padding[0], padding[1], 0, 0}, {dilation[0], 1}, {kd, 1});
  const int64_t od = window_output("conv3d", along, d, 1)[0];
  checked_mul(checked_mul(checked_mul(n > 0 ? n : 1, o), checked_mul(checked_mul(od, oh), ow)), sizeof(float));
  checked_mul(checked_mul(d, h), w);
  slice.n = n, slice.c = c, slice.h = h, slice.w = w;
  slice.o = o, slice.oh = oh, slice.ow = ow;
  slice.groups = groups;
  return {slice, d, od, kd, stride[0], dilation[0], padding[0], padding[1]};
}

std::optional<Conv2dDesc> as_images(const Conv3dDesc& d) {
  const Window& w = d.slice.window;
  Conv2dDesc images = d.slice;
  if (d.kernel == 1 && d.stride == 1 && d.front == 0 && d.back == 0) {
    images.n *= d.d;
    return images;
  }
  const bool point = d.slice.taps() == 1 && w.stride == Pair{1, 1} && sides_of(w) == Sides{0, 0, 0, 0};
  if (!point) return std::nullopt;
  images.h = d.d;
  images.oh = d.od;
  images.w = images.ow = d.slice.h * d.slice.w;
  images.window = window_of({d.stride, 1}, {d.front, d.back, 0, 0}, {d.dilation, 1}, {d.kernel, 1});
  return images;
}

bool sums_slices(const Conv3dDesc& d) {
  if (d.stride != 1 || d.slice.groups != 1 || !refuse_winograd(d.slice).empty()) return false;
  bool met = true;  // every output slice meets some slice of the kernel
  for_slices(d, [&met](int64_t, int64_t, int64_t tap, int64_t end) { met = met && tap < end; });
  return met;
}

std::string cheapest_conv3d(const Conv3dDesc& desc, bool winograd) {
  if (const auto images = as_images(desc)) return cheapest_conv2d(*images, winograd);
  for (const Conv3dWay way : {Conv3dWay::depthwise, Conv3dWay::stem})
    if (refusal_of(way, desc).empty()) return way == Conv3dWay::stem ? "stem" : "depthwise";
  return winograd && sums_slices(desc) ? cheapest_product(desc.slice) : "direct";
}

std::vector<std::string> conv3d_candidates(const Conv3dDesc& desc, bool winograd) {
  if (const auto images = as_images(desc)) return conv2d_candidates(*images, winograd);
  std::vector<std::string> names{cheapest_conv3d(desc, winograd)};
  if (names[0] == "depthwise") return names;
  for (const Way& each : kWays)
    if (each.way != Conv3dWay::depthwise && names[0] != each.name && refusal_of(each.way, desc).empty() &&
        (winograd || !is_winograd(each.way)))
      names.emplace_back(each.name);
  return names;
}

std::vector<std::pair<std::string, std::string>> explain_conv3d(const Conv3dDesc& desc, const std::string& algorithm) {
  if (const auto images = as_images(desc)) {
    check_algorithm(*images, algorithm);
    return explain_conv2d(*images, algorithm);
  }
  const bool any = algorithm == "auto";
  const Way& chosen = find_way(any ? cheapest_conv3d(desc, false) : algorithm);
  if (const std::string why = refusal_of(chosen.way, desc); !why.empty()) refuse_algorithm(algorithm, why);
  std::vector<std::pair<std::string, std::string>> steps;
  for (const Way& each : kWays) {
    const std::string refusal = refusal_of(each.way, desc);
    if (each.way == chosen.way) {
      steps.emplace_back(each.name, "");
      break;
    }
    const char* passed_over = any ? "it is taken only when asked for" : "another one was asked for";
    steps.emplace_back(each.name, refusal.empty() ? passed_over : refusal);
  }
  return steps;
}

Conv3dChoice choose_conv3d(const Conv3dDesc& desc, const std::string& algorithm, WeightLayout layout) {
  if (const auto images = as_images(desc)) {
    check_algorithm(*images, algorithm);
    return {desc, images, &choose_conv2d(*images, algorithm, layout), Conv3dWay::direct};
  }
  if (algorithm != "auto") {
    const Way& way = find_way(algorithm);
    if (const std::string why = refusal_of(way.way, desc); !why.empty()) refuse_algorithm(algorithm, why);
    if (way.layout != layout) refuse("the weights were packed for another algorithm than '" + algorithm + "'");
    return {desc, std::nullopt, is_winograd(way.way) ? &find_conv2d_algorithm(algorithm) : nullptr, way.way};
  }
  for (const Way& each : kWays)
    if (each.layout == layout && refusal_of(each.way, desc).empty())
      return {desc, std::nullopt, is_winograd(each.way) ? &find_conv2d_algorithm(each.name) : nullptr, each.way};
  refuse("no algorithm serves weights packed in this order");
}

bool reads_any_layout(const Conv3dChoice& choice) { return !choice.images && choice.way == Conv3dWay::stem; }

void reserve_conv3d(const Conv3dChoice& choice, const Conv2dArgs& args, bool any_layout, Scratch& scratch) {
  const Conv3dDesc& d = choice.desc;
  if (reads_any_layout(choice)) {
    StemSlices(d, args.threads, scratch);
    return;
  }
  if (any_layout) {
    const auto [n, c, rows, w] = d.source();
    scratch.take<float>(checked_mul(checked_mul(n, c), checked_mul(rows, w)));
  }
  if (choice.images) return reserve_conv2d(*choice.algorithm, *choice.images, args, false, scratch);
  if (choice.way == Conv3dWay::depthwise) {
    DepthwiseRows(d, args.threads, scratch);
    return;
  }
  scratch.take<float>(d.slice.c);
  RowsGemmParts(conv3d_gemm(d, args), scratch);
}

void run_conv3d(const Conv3dChoice& choice, const Conv2dArgs& args, Scratch& scratch) {
  const Conv3dDesc& d = choice.desc;
  if (d.voxels() == 0) return;
  if (reads_any_layout(choice)) return run_stem_3d(d, args, scratch);
  Conv2dArgs now = args;
  if (!args.src.is_channels_last()) {
    float* copy = scratch.take<float>(args.src.count());
    copy_to_channels_last(args.src, copy);
    now.src = channels_last_view(copy, args.src.shape);
  }
  if (choice.images) {
    const Conv2dDesc& images = *choice.images;
    now.src = channels_last_view(now.src.data, {images.n, images.c, images.h, images.w});
    return run_conv2d(*choice.algorithm, images, now, scratch);
  }
  choice.way == Conv3dWay::depthwise ? run_depthwise_3d(d, now, scratch) : run_direct_3d(d, now, scratch);
}

void run_conv3d(const Conv3dChoice& choice, const Conv2dArgs& args) {
  if (choice.desc.voxels() == 0) return;
  with_scratch([&](Scratch& scratch) { reserve_conv3d(choice, args, !args.src.is_channels_last(), scratch); },
               [&](Scratch& scratch) { run_conv3d(choice, args, scratch); });
}

void reserve_conv3d_slices(const Conv3dDesc& d, const Conv2dAlgorithm& algorithm, const Conv2dArgs& args,
                           Scratch& scratch) {
  scratch.take<char>(slices_bytes(d, algorithm, args));
}

void run_conv3d_slices(const Conv3dDesc& d, const Conv2dAlgorithm& algorithm, const PackedWeight* const* weights,
                       const Conv2dArgs& args, Scratch& scratch) {
  const Conv2dDesc& slice = d.slice;
  const int64_t from = slice.c * slice.h * slice.w, to = slice.oh * slice.ow;
  char* memory = scratch.take<char>(slices_bytes(d, algorithm, args));
  for (int64_t volume = 0; volume < slice.n; ++volume) {
    for_slices(d, [&](int64_t od, int64_t count, int64_t tap, int64_t end) {
      const int64_t pixel = (volume * d.od + od) * to;
      for (int64_t a = tap; a < end; ++a) {
        Conv2dArgs now = args;
        const float* src = args.src.data + (volume * d.d + slice_of(d, od, a)) * from;
        now.src = channels_last_view(src, {count, slice.c, slice.h, slice.w});
        now.weight = weights[a];
        now.dst = args.dst + pixel * args.dst_stride;
        Epilogue& e = now.epilogue;
        if (e.residual != nullptr) e.residual += pixel * e.residual_stride;
        if (a != tap) {  // continue from the sum so far
          e.bias = nullptr;
          e.residual = now.dst;
          e.residual_stride = args.dst_stride;
        }
        if (a + 1 != end) e.activation = Activation::none;
        Scratch own(memory);
        run_conv2d(algorithm, images_of(d, count), now, own);
      }
    });
  }
}

void run_conv3d_slices(const Conv3dDesc& d, const Conv2dAlgorithm& algorithm, const PackedWeight* const* weights,
                       const Conv2dArgs& args) {
  if (d.voxels() == 0) return;
  const bool moved = !args.src.is_channels_last();
  const auto copy = allocate_aligned<float>(moved ? args.src.count() : 0);
  Conv2dArgs now = args;
  if (moved) {
    copy_to_channels_last(args.src, copy.get());
    now.src = channels_last_view(copy.get(), args.src.shape);
  }
  with_scratch([&](Scratch& scratch) { reserve_conv3d_slices(d, algorithm, now, scratch); },
               [&](Scratch& scratch) { run_conv3d_slices(d, algorithm, weights, now, scratch); });
}

}  // namespace convlane
