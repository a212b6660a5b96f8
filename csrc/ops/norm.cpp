#include "ops/norm.h"

#include <cmath>

#include "kernels/table.h"
#include "ops/parallel.h"
#include "ops/wide_rows.h"

namespace convlane {

namespace {

// One number per channel of a wide row.
class Repeated {
 public:
  Repeated(int64_t channels, int64_t times, int64_t vectors)
      : channels_(channels), times_(times), memory_(allocate_aligned<float>(vectors * channels * times)) {}
  template <class Value>
  const float* fill(int64_t vector, const Value& value) {
    float* const to = memory_.get() + vector * channels_ * times_;
    for (int64_t c = 0; c < channels_; ++c) to[c] = static_cast<float>(value(c));
    for (int64_t i = 1; i < times_; ++i) std::copy_n(to, channels_, to + i * channels_);
    return to;
  }
  AlignedArray<float> release() { return std::move(memory_); }

 private:
  int64_t channels_, times_;
  AlignedArray<float> memory_;
};

// x -> (x - center) * scale + shift. What rounding the mean to `center` leaves goes into the shift.
struct Affine {
  const float *center, *scale, *shift;
};
constexpr int64_t kAffineVectors = 3;

template <class Real>
Affine affine_of(Repeated& memory, const Real* mean, const Real* variance, const float* weight, const float* bias,
                 double eps) {
  const auto factor = [=](int64_t c) { return (weight ? weight[c] : 1.0) / std::sqrt(variance[c] + eps); };
  const float* center = memory.fill(0, [=](int64_t c) { return mean[c]; });
  return {center, memory.fill(1, factor), memory.fill(2, [=](int64_t c) {
            return (bias ? bias[c] : 0.0) - (mean[c] - static_cast<double>(center[c])) * factor(c);
          })};
}

// Calls body(first row, wide rows, channels of each) for parts of [0, rows): wide rows in parallel, then the rest.
template <class Body>
void for_wide_rows(int64_t rows, int64_t channels, int64_t together, const Body& body) {
  const int64_t wide = rows / together;
  parallel_for(wide, threads_for(rows * channels), [&](int64_t begin, int64_t end, int) noexcept {
    body(begin * together, end - begin, channels * together);
  });
  if (rows > wide * together) body(wide * together, 1, (rows - wide * together) * channels);
}

}  // namespace

template <class Real>
BatchNorm::BatchNorm(int64_t channels, const Real* mean, const Real* variance, const float* weight, const float* bias,
                     double eps)
    : channels_(channels) {
  Repeated memory(channels, rows_together(channels), kAffineVectors);
  const Affine affine = affine_of(memory, mean, variance, weight, bias, eps);
  center_ = affine.center;
  scale_ = affine.scale;
  shift_ = affine.shift;
  factors_ = memory.release();
}

template BatchNorm::BatchNorm(int64_t, const float*, const float*, const float*, const float*, double);
template BatchNorm::BatchNorm(int64_t, const double*, const double*, const float*, const float*, double);

void BatchNorm::run(const float* src, int64_t rows, float* dst, const NormTail& tail) const {
  const auto normalize = active_table().normalize;
  for_wide_rows(rows, channels_, rows_together(channels_), [&](int64_t first, int64_t count, int64_t width) noexcept {
    const int64_t at = first * channels_;
    const float* residual = tail.residual == nullptr ? nullptr : tail.residual + at;
    normalize(src + at, dst + at, count, {width, center_, scale_, shift_, tail.activation, tail.slope, residual});
  });
}

namespace {

// Per channel: sums[c] of the gradient of the activation's input, products[c] of that times (src - mean).
void sum_gradients(const BatchNormGradient& g, NormGradientArgs args, int64_t together, double* sums,
                   double* products) {
  constexpr int64_t kRows = 256, kBlock = 512;  // of a task: wide rows, whose sums are in float, and channels
  const int64_t width = g.channels * together, wide = g.rows / together, rest = g.rows - wide * together;
  const int64_t chunks = std::max<int64_t>(1, ceil_div(wide, kRows)), length = ceil_div(wide, chunks);
  const int64_t blocks = ceil_div(width, kBlock);
  const AlignedArray<float> parts = allocate_aligned<float>(checked_mul(chunks, 2 * width));
  const auto add_up = active_table().norm_gradient_sums;
  parallel_for(chunks * blocks, threads_for(2 * g.rows * g.channels), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task / blocks, c = task % blocks * kBlock, first = chunk * length;
      NormGradientArgs part = args;
      part.sums = parts.get() + chunk * 2 * width + c;
      part.products = part.sums + width;
      part.channels = std::min(kBlock, width - c);
      std::fill_n(part.sums, part.channels, 0.0f);
      std::fill_n(part.products, part.channels, 0.0f);
      const auto run = [&](int64_t row, int64_t rows) {
        const int64_t at = row * width + c;
        NormGradientArgs own = part;
        own.rows = rows;
        own.src += at;
        own.gradient += at;
        if (own.kept != nullptr) own.kept += at;
        if (own.masked != nullptr) own.masked += at;
        own.center += c;
        own.scale += c;
        own.shift += c;
        add_up(own);
      };
      run(first, std::min(length, wide - first));
      part.channels = std::min(part.channels, rest * g.channels - c);
      if (part.channels > 0 && chunk == chunks - 1) run(wide, 1);
    }
  });
  std::fill_n(sums, g.channels, 0.0);
  std::fill_n(products, g.channels, 0.0);
  for (int64_t row = 0; row < chunks * together; ++row) {
    const int64_t chunk = row / together, phase = row % together;
    const float* part = parts.get() + chunk * 2 * width + phase * g.channels;
    for (int64_t c = 0; c < g.channels; ++c) {
      sums[c] += static_cast<double>(part[c]);
      products[c] += static_cast<double>(part[width + c]);
    }
  }
  for (int64_t c = 0; c < g.channels; ++c) products[c] -= (g.mean[c] - static_cast<double>(args.center[c])) * sums[c];
}

}  // namespace

void run_batch_norm_gradient(const BatchNormGradient& g) {
  if (g.channels == 0) return;
  const int64_t together = rows_together(g.channels);
  Repeated memory(g.channels, together, kAffineVectors + 2);
  const Affine affine = affine_of(memory, g.mean, g.variance, g.weight, g.bias, g.eps);
  NormGradientArgs args{};
  args.row_stride = g.channels * together;
  args.src = g.src;
  args.gradient = g.gradient;
  args.center = affine.center;
  args.scale = affine.scale;
  args.shift = affine.shift;
  args.activation = g.activation;
  args.slope = g.slope;
  args.kept = g.kept;
  args.kept_is_output = g.kept_is_output;
  args.masked = g.residual_gradient;

  const bool vectors = g.weight_gradient != nullptr || g.bias_gradient != nullptr;
  const AlignedArray<double> totals = allocate_aligned<double>(2 * g.channels);
  double *sums = totals.get(), *products = sums + g.channels;
  if (vectors || g.residual_gradient != nullptr || (g.training && g.src_gradient != nullptr))
    sum_gradients(g, args, together, sums, products);
  for (int64_t c = 0; c < g.channels && vectors; ++c) {
    if (g.bias_gradient != nullptr) g.bias_gradient[c] = static_cast<float>(sums[c]);
    if (g.weight_gradient != nullptr)
      g.weight_gradient[c] = static_cast<float>(products[c] / std::sqrt(g.variance[c] + g.eps));
  }
  if (g.src_gradient == nullptr) return;

  if (g.training) {  // dx = scale * (dy - mean of dy - (x - mean) * mean of dy (x - mean) / (variance + eps))
    const double count = static_cast<double>(g.rows);
    const auto factor = [&](int64_t c) { return products[c] / count / (g.variance[c] + g.eps); };
    args.factor = memory.fill(kAffineVectors, factor);
    args.offset = memory.fill(kAffineVectors + 1, [&](int64_t c) {
      return sums[c] / count - (g.mean[c] - static_cast<double>(affine.center[c])) * factor(c);
    });
  }
  if (g.residual_gradient != nullptr) {
    args.gradient = g.residual_gradient;
    args.activation = Activation::none;
    args.kept = nullptr;
  }
  const auto apply = active_table().norm_gradient;
  for_wide_rows(g.rows, g.channels, together, [&](int64_t first, int64_t rows, int64_t width) noexcept {
    NormGradientArgs part = args;
    part.rows = rows;
    part.channels = width;
    part.src += first * g.channels;
    part.gradient += first * g.channels;
    if (part.kept != nullptr) part.kept += first * g.channels;
    part.dst = g.src_gradient + first * g.channels;
    apply(part);
  });
}

// Chunks of a fixed number of rows, merged in order (Chan, Golub, LeVeque 1983): neither the threads nor the length of
// the array decide which values are summed together.
void run_moments(const float* src, int64_t rows, int64_t channels, double* mean, double* variance) {
  constexpr int64_t kChunk = 256;
  const int64_t chunks = ceil_div(rows, kChunk);
  const AlignedArray<double> parts = allocate_aligned<double>(chunks * channels * 2);
  const auto moments = active_table().moments;
  parallel_for(chunks, threads_for(2 * rows * channels), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kChunk;
      double* part = parts.get() + chunk * channels * 2;
      moments(src + first * channels, std::min(kChunk, rows - first), channels, part, part + channels);
    }
  });
  std::copy_n(parts.get(), channels, mean);
  std::copy_n(parts.get() + channels, channels, variance);
  for (int64_t chunk = 1; chunk < chunks; ++chunk) {
    const double before = static_cast<double>(chunk * kChunk);
    const double added = static_cast<double>(std::min(kChunk, rows - chunk * kChunk)), both = before + added;
    const double* part = parts.get() + chunk * channels * 2;
    for (int64_t c = 0; c < channels; ++c) {
      const double delta = part[c] - mean[c];
      mean[c] += delta * (added / both);
      variance[c] += part[channels + c] + delta * delta * (before * added / both);
    }
  }
  for (int64_t c = 0; c < channels; ++c) variance[c] /= static_cast<double>(rows);
}

LocalResponseArgs describe_local_response(int64_t channels, int64_t size, float alpha, float beta, float k) {
  if (size < 1)
    throw std::invalid_argument("local_response_norm: size must be at least 1, got " + std::to_string(size));
  LocalResponseArgs args{};
  args.channels = channels;
  args.before = std::min(size / 2, channels);
  args.after = std::min((size - 1) / 2, channels);
  args.alpha = alpha / static_cast<float>(size);
  args.beta = beta;
  args.k = k;
  return args;
}

namespace {

int local_response_threads(const LocalResponseArgs& args, int64_t rows, int limit) {
  return threads_for(rows * args.channels * (args.before + args.after + 8), limit);
}

// Calls body(begin, end, args), where args has `own` floats of scratch.
template <class Body>
void for_pixels(const LocalResponseArgs& args, int64_t rows, int threads, int64_t own, float* memory,
                const Body& body) {
  parallel_for(rows, threads, [&](int64_t begin, int64_t end, int thread) noexcept {
    LocalResponseArgs part = args;
    part.scratch = memory + thread * own;
    body(begin, end, part);
  });
}

int64_t local_response_floats(const LocalResponseArgs& args) {
  return round_up(args.before + args.channels + args.after + active_table().lanes, 16);
}

AlignedArray<float> vector_or(const float* vector, int64_t size, float value) {
  auto memory = allocate_aligned<float>(size);
  if (vector == nullptr)
    std::fill_n(memory.get(), size, value);
  else
    std::copy_n(vector, size, memory.get());
  return memory;
}

}  // namespace

LayerNorm::LayerNorm(int64_t channels, bool centered, const float* weight, const float* bias, float eps)
    : channels_(channels),
      centered_(centered),
      eps_(eps),
      weight_(vector_or(weight, channels, 1)),
      bias_(vector_or(bias, channels, 0)) {}

void LayerNorm::run(const float* src, int64_t rows, float* dst) const {
  if (channels_ == 0) return;
  const auto layer_norm = active_table().layer_norm;
  parallel_for(rows, threads_for(4 * rows * channels_), [&](int64_t begin, int64_t end, int) noexcept {
    LayerNormArgs part{};
    part.rows = end - begin;
    part.channels = channels_;
    part.centered = centered_;
    part.src = src + begin * channels_;
    part.weight = weight_.get();
    part.bias = bias_.get();
    part.eps = eps_;
    part.dst = dst + begin * channels_;
    layer_norm(part);
  });
}

// A chunk of rows is summed in float; the chunks' sums are added in double, in order.
void run_layer_norm_gradient(const float* src, const float* gradient, int64_t rows, int64_t channels, bool centered,
                             const float* weight, float eps, float* src_gradient, float* weight_gradient,
                             float* bias_gradient) {
  constexpr int64_t kRows = 128;
  if (channels == 0) return;
  const bool vectors = weight_gradient != nullptr;
  const int64_t chunks = ceil_div(rows, kRows);
  const AlignedArray<float> factors = vector_or(weight, channels, 1);
  const auto parts = allocate_aligned<float>(vectors ? checked_mul(chunks, 2 * channels) : 0);
  const auto run = active_table().layer_norm_gradient;
  parallel_for(chunks, threads_for(8 * rows * channels), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kRows;
      LayerNormArgs part{};
      part.rows = std::min(kRows, rows - first);
      part.channels = channels;
      part.centered = centered;
      part.src = src + first * channels;
      part.gradient = gradient + first * channels;
      part.weight = factors.get();
      part.eps = eps;
      part.dst = src_gradient == nullptr ? nullptr : src_gradient + first * channels;
      if (vectors) {
        part.products = parts.get() + chunk * 2 * channels;
        part.sums = part.products + channels;
        std::fill_n(part.products, 2 * channels, 0.0f);
      }
      run(part);
    }
  });
  for (int64_t c = 0; c < channels && vectors; ++c) {
    double product = 0, sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const float* part = parts.get() + chunk * 2 * channels;
      product += static_cast<double>(part[c]);
      sum += static_cast<double>(part[channels + c]);
    }
    weight_gradient[c] = static_cast<float>(product);
    bias_gradient[c] = static_cast<float>(sum);
  }
}

void reserve_local_response(const LocalResponseArgs& args, int64_t rows, int threads, Scratch& scratch) {
  scratch.take<float>(checked_mul(local_response_threads(args, rows, threads), local_response_floats(args)));
}

void run_local_response(const LocalResponseArgs& args, const float* src, int64_t rows, float* dst, int limit,
                        Scratch& scratch) {
  const auto local_response = active_table().local_response;
  const int threads = local_response_threads(args, rows, limit);
  const int64_t own = local_response_floats(args);
  for_pixels(args, rows, threads, own, scratch.take<float>(threads * own),
             [&](int64_t begin, int64_t end, const LocalResponseArgs& part) noexcept {
               local_response(src + begin * args.channels, dst + begin * args.channels, end - begin, part);
             });
}

void run_local_response_gradient(const float* src, const float* gradient, int64_t rows, int64_t channels, int64_t size,
                                 float alpha, float beta, float k, float* dst) {
  const KernelTable& kernels = active_table();
  const LocalResponseArgs args = describe_local_response(channels, size, alpha, beta, k);
  const int threads = local_response_threads(args, rows, num_threads());
  const int64_t own = round_up(2 * (2 * (args.before + args.after) + channels + kernels.lanes), 16);
  const auto memory = allocate_aligned<float>(threads * own);
  for_pixels(args, rows, threads, own, memory.get(),
             [&](int64_t begin, int64_t end, const LocalResponseArgs& part) noexcept {
               kernels.local_response_gradient(src + begin * channels, gradient + begin * channels,
                                               dst + begin * channels, end - begin, part);
             });
}

}  // namespace convlane
