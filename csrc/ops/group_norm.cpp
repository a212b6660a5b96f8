#include "ops/group_norm.h"

#include <cmath>

#include "kernels/table.h"
#include "ops/parallel.h"
#include "ops/view.h"
#include "ops/wide_rows.h"

namespace convlane {

GroupNormShape describe_group_norm(int64_t images, int64_t channels, int64_t groups, int64_t pixels,
                                   bool channels_last) {
  if (groups < 1 || channels % groups != 0)
    throw std::invalid_argument("group_norm: " + std::to_string(channels) + " channels do not fall into " +
                                std::to_string(groups) + " groups");
  return {images, channels, groups, pixels, channels_last};
}

namespace {

// What kernels see: units, in each of which rows of channels lie one after the other. That is an image, or a channel of
// one where its pixels lie side by side. Rows of a unit are taken together to wide ones and these in chunks; what is
// summed together does not depend on anything else.
struct Units {
  static constexpr int64_t kRows = 256;  // of a chunk

  int64_t per_image, channels, rows;  // of a unit
  int64_t together, width, wide;      // rows in a wide row, numbers in one, wide rows
  int64_t chunks;

  explicit Units(const GroupNormShape& s)
      : per_image(s.channels_last ? 1 : s.channels), channels(s.channels_last ? s.channels : 1), rows(s.pixels) {
    together = rows_together(channels);
    width = channels * together;
    wide = rows / together;
    chunks = std::max<int64_t>(1, ceil_div(wide, kRows));
  }

  int64_t size() const { return rows * channels; }
  int64_t rest() const { return size() - wide * width; }  // numbers behind the last wide row
  int64_t rows_of(int64_t chunk) const { return std::min(kRows, wide - chunk * kRows); }
};

// Images that stay in a cache from one pass over them to the next.
int64_t images_at_once(const GroupNormShape& s) {
  constexpr int64_t kNumbers = 1 << 18;
  return std::clamp<int64_t>(kNumbers / std::max<int64_t>(1, s.channels * s.pixels), 1, std::max<int64_t>(1, s.images));
}

// Calls body(unit, first number, rows, width) for the chunks of `count` units, and for what is left of each as one more
// row; the unit is counted from the first, the number from the start of the array.
template <class Body>
void for_chunks(const Units& u, int64_t first_unit, int64_t count, int threads, const Body& body) {
  parallel_for(count * u.chunks, threads, [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t unit = task / u.chunks, chunk = task % u.chunks;
      const int64_t start = (first_unit + unit) * u.size(), at = start + chunk * Units::kRows * u.width;
      if (u.wide > 0) body(unit, chunk, at, u.rows_of(chunk), u.width);
      if (chunk == u.chunks - 1 && u.rest() > 0) body(unit, chunk, start + u.wide * u.width, 1, u.rest());
    }
  });
}

// The numbers of one group in the moments of an image's chunks: calls of_part(first mean, channels, rows of each) for
// runs of channels, and of_rest(first number, numbers) for what is in no wide row.
template <class OfPart, class OfRest>
void for_group(const GroupNormShape& s, const Units& u, const double* parts, const float* image, int64_t group,
               const OfPart& of_part, const OfRest& of_rest) {
  const int64_t in_group = s.channels / s.groups, own = s.channels_last ? 1 : in_group;
  const int64_t run = s.channels_last ? in_group : 1, first = s.channels_last ? group * in_group : 0;
  const int64_t rows_left = u.rows - u.wide * u.together;
  for (int64_t i = 0; i < own; ++i) {
    const int64_t unit = s.channels_last ? 0 : group * in_group + i;
    for (int64_t chunk = 0; chunk < u.chunks && u.wide > 0; ++chunk)
      for (int64_t phase = 0; phase < u.together; ++phase)
        of_part(parts + (unit * u.chunks + chunk) * 2 * u.width + phase * u.channels + first, run, u.rows_of(chunk));
    for (int64_t row = 0; row < rows_left; ++row)
      of_rest(image + unit * u.size() + u.wide * u.width + row * u.channels + first, run);
  }
}

// Mean and biased variance of a group.
void merge_group(const GroupNormShape& s, const Units& u, const double* parts, const float* image, int64_t group,
                 double& mean, double& variance) {
  const double count = static_cast<double>(s.channels / s.groups * s.pixels);
  double sum = 0;
  for_group(
      s, u, parts, image, group,
      [&](const double* means, int64_t channels, int64_t rows) {
        double all = 0;
        for (int64_t c = 0; c < channels; ++c) all += means[c];
        sum += all * static_cast<double>(rows);
      },
      [&](const float* numbers, int64_t channels) {
        for (int64_t c = 0; c < channels; ++c) sum += static_cast<double>(numbers[c]);
      });
  mean = sum / count;
  double squares = 0;
  for_group(
      s, u, parts, image, group,
      [&](const double* means, int64_t channels, int64_t rows) {
        for (int64_t c = 0; c < channels; ++c) {
          const double distance = means[c] - mean;
          squares += means[u.width + c] + distance * distance * static_cast<double>(rows);
        }
      },
      [&](const float* numbers, int64_t channels) {
        for (int64_t c = 0; c < channels; ++c) {
          const double distance = static_cast<double>(numbers[c]) - mean;
          squares += distance * distance;
        }
      });
  variance = squares / count;
}

// Writes value(channel of the image) for the channels of a unit, as often as a wide row has them.
template <class Value>
void fill(const Units& u, int64_t unit, float* to, const Value& value) {
  for (int64_t c = 0; c < u.channels; ++c) to[c] = static_cast<float>(value(unit * u.channels + c));
  for (int64_t i = 1; i < u.together; ++i) std::copy_n(to, u.channels, to + i * u.channels);
}

constexpr int64_t kVectors = 3;  // center, scale and shift; the gradient has a factor more

int64_t part_numbers(const GroupNormShape& s, const Units& u) {
  return checked_mul(checked_mul(images_at_once(s) * u.per_image, u.chunks), 2 * u.width);
}

int64_t factor_numbers(const GroupNormShape& s, const Units& u, int64_t vectors) {
  return checked_mul(checked_mul(images_at_once(s), u.per_image), vectors * u.width);
}

}  // namespace

void reserve_group_norm(const GroupNormShape& s, Scratch& scratch) {
  const Units u(s);
  scratch.take<double>(part_numbers(s, u));
  scratch.take<float>(factor_numbers(s, u, kVectors));
}

void run_group_norm(const GroupNormShape& s, const float* src, const float* weight, const float* bias, double eps,
                    double* mean, double* variance, float* dst, int limit, Scratch& scratch) {
  const Units u(s);
  double* const parts = scratch.take<double>(part_numbers(s, u));
  float* const factors = scratch.take<float>(factor_numbers(s, u, kVectors));
  if (s.count() == 0) {
    std::fill_n(mean, s.images * s.groups, std::nan(""));
    std::fill_n(variance, s.images * s.groups, std::nan(""));
    return;
  }
  const KernelTable& kernels = active_table();
  const int64_t in_group = s.channels / s.groups, at_once = images_at_once(s);
  for (int64_t image = 0; image < s.images; image += at_once) {
    const int64_t images = std::min(at_once, s.images - image), units = images * u.per_image;
    const int threads = threads_for(2 * units * u.size(), limit);
    for_chunks(u, image * u.per_image, units, threads,
               [&](int64_t unit, int64_t chunk, int64_t at, int64_t rows, int64_t width) noexcept {
                 if (width != u.width) return;  // too few to be worth a vector
                 double* part = parts + (unit * u.chunks + chunk) * 2 * u.width;
                 kernels.moments(src + at, rows, width, part, part + width);
               });
    parallel_for(images, threads, [&](int64_t begin, int64_t end, int) noexcept {
      for (int64_t i = begin; i < end; ++i) {
        double *means = mean + (image + i) * s.groups, *variances = variance + (image + i) * s.groups;
        for (int64_t group = 0; group < s.groups; ++group)
          merge_group(s, u, parts + i * u.per_image * u.chunks * 2 * u.width, src + (image + i) * s.channels * s.pixels,
                      group, means[group], variances[group]);
        const auto factor = [=](int64_t c) {
          return (weight != nullptr ? weight[c] : 1.0) / std::sqrt(variances[c / in_group] + eps);
        };
        for (int64_t unit = 0; unit < u.per_image; ++unit) {
          float* center = factors + (i * u.per_image + unit) * kVectors * u.width;
          fill(u, unit, center, [=](int64_t c) { return means[c / in_group]; });
          fill(u, unit, center + u.width, factor);
          fill(u, unit, center + 2 * u.width, [=](int64_t c) {  // what rounding the mean leaves goes into the shift
            const double m = means[c / in_group], left = m - static_cast<double>(static_cast<float>(m));
            return (bias != nullptr ? bias[c] : 0.0) - left * factor(c);
          });
        }
      }
    });
    for_chunks(u, image * u.per_image, units, threads,
               [&](int64_t unit, int64_t, int64_t at, int64_t rows, int64_t width) noexcept {
                 const float* center = factors + unit * kVectors * u.width;
                 kernels.normalize(
                     src + at, dst + at, rows,
                     {width, center, center + u.width, center + 2 * u.width, Activation::none, 0, nullptr});
               });
  }
}

// With g = gradient * weight, of a group of `count` numbers with r = 1 / sqrt(variance + eps):
// r g - r (mean of g) - (x - mean) r^3 (mean of g (x - mean)).
void run_group_norm_gradient(const GroupNormGradient& g) {
  constexpr int64_t kGradientVectors = 4;  // center, scale, offset and factor
  const GroupNormShape& s = g.shape;
  const Units u(s);
  const bool vectors = g.weight_gradient != nullptr || g.bias_gradient != nullptr;
  const AlignedArray<float> parts = allocate_aligned<float>(part_numbers(s, u));
  const AlignedArray<float> factors = allocate_aligned<float>(factor_numbers(s, u, kGradientVectors));
  const AlignedArray<double> sums = allocate_aligned<double>(checked_mul(images_at_once(s), 2 * s.channels));
  const AlignedArray<double> group_means = allocate_aligned<double>(checked_mul(images_at_once(s), 2 * s.groups));
  const AlignedArray<double> totals = allocate_aligned<double>(2 * s.channels);
  std::fill_n(totals.get(), 2 * s.channels, 0.0);
  const KernelTable& kernels = active_table();
  const int64_t in_group = s.channels / s.groups, at_once = images_at_once(s);
  const double count = static_cast<double>(in_group * s.pixels);
  const auto weight_of = [&](int64_t c) { return g.weight != nullptr ? static_cast<double>(g.weight[c]) : 1.0; };
  for (int64_t image = 0; image < s.images && s.count() > 0; image += at_once) {
    const int64_t images = std::min(at_once, s.images - image), units = images * u.per_image;
    const int threads = threads_for(4 * units * u.size());
    const auto args_of = [&](int64_t unit, int64_t at, int64_t rows, int64_t width) {
      const float* center = factors.get() + unit * kGradientVectors * u.width;
      NormGradientArgs args{};
      args.rows = rows;
      args.channels = width;
      args.row_stride = u.width;
      args.src = g.src + at;
      args.gradient = g.gradient + at;
      args.center = center;
      args.scale = center + u.width;
      args.shift = args.offset = center + 2 * u.width;
      args.factor = center + 3 * u.width;
      args.activation = Activation::none;
      return args;
    };
    for (int64_t unit = 0; unit < units; ++unit) {
      const int64_t i = unit / u.per_image, own = unit % u.per_image;
      float* center = factors.get() + unit * kGradientVectors * u.width;
      const double* means = g.mean + (image + i) * s.groups;
      fill(u, own, center, [=](int64_t c) { return means[c / in_group]; });
      std::fill_n(center + u.width, 3 * u.width, 0.0f);
    }
    for_chunks(u, image * u.per_image, units, threads,
               [&](int64_t unit, int64_t chunk, int64_t at, int64_t rows, int64_t width) noexcept {
                 NormGradientArgs args = args_of(unit, at, rows, width);
                 args.sums = parts.get() + (unit * u.chunks + chunk) * 2 * u.width;
                 args.products = args.sums + u.width;
                 const bool first = u.wide == 0 || width == u.width;
                 if (first) std::fill_n(args.sums, 2 * u.width, 0.0f);
                 kernels.norm_gradient_sums(args);
               });
    parallel_for(images, threads, [&](int64_t begin, int64_t end, int) noexcept {
      for (int64_t i = begin; i < end; ++i) {
        const double* means = g.mean + (image + i) * s.groups;
        const double* variances = g.variance + (image + i) * s.groups;
        double *sum = sums.get() + i * 2 * s.channels, *product = sum + s.channels;
        std::fill_n(sum, 2 * s.channels, 0.0);
        const float* part = parts.get() + i * u.per_image * u.chunks * 2 * u.width;
        for (int64_t unit = 0; unit < u.per_image; ++unit)
          for (int64_t chunk = 0; chunk < u.chunks; ++chunk, part += 2 * u.width)
            for (int64_t column = 0; column < u.width; ++column) {
              const int64_t c = unit * u.channels + column % u.channels;
              sum[c] += static_cast<double>(part[column]);
              product[c] += static_cast<double>(part[u.width + column]);
            }
        const auto left = [=](int64_t c) {  // of the mean, where it was rounded
          const double m = means[c / in_group];
          return m - static_cast<double>(static_cast<float>(m));
        };
        const auto inverse = [&](int64_t c) { return 1 / std::sqrt(variances[c / in_group] + g.eps); };
        for (int64_t c = 0; c < s.channels; ++c) product[c] -= left(c) * sum[c];
        double *of_sum = group_means.get() + i * 2 * s.groups, *of_product = of_sum + s.groups;
        std::fill_n(of_sum, 2 * s.groups, 0.0);
        for (int64_t c = 0; c < s.channels; ++c) {
          of_sum[c / in_group] += weight_of(c) * sum[c] / count;
          of_product[c / in_group] += weight_of(c) * product[c] / count;
        }
        for (int64_t unit = 0; unit < u.per_image && g.src_gradient != nullptr; ++unit) {
          float* center = factors.get() + (i * u.per_image + unit) * kGradientVectors * u.width;
          const auto factor = [&](int64_t c) { return std::pow(inverse(c), 3) * of_product[c / in_group]; };
          fill(u, unit, center + u.width, [&](int64_t c) { return inverse(c) * weight_of(c); });
          fill(u, unit, center + 2 * u.width,
               [&](int64_t c) { return inverse(c) * of_sum[c / in_group] - left(c) * factor(c); });
          fill(u, unit, center + 3 * u.width, factor);
        }
        for (int64_t c = 0; c < s.channels; ++c) product[c] *= inverse(c);
      }
    });
    for (int64_t i = 0; i < images; ++i)
      for (int64_t c = 0; c < 2 * s.channels; ++c) totals[c] += sums[i * 2 * s.channels + c];
    if (g.src_gradient == nullptr) continue;
    for_chunks(u, image * u.per_image, units, threads,
               [&](int64_t unit, int64_t, int64_t at, int64_t rows, int64_t width) noexcept {
                 NormGradientArgs args = args_of(unit, at, rows, width);
                 args.dst = g.src_gradient + at;
                 kernels.group_norm_gradient(args);
               });
  }
  for (int64_t c = 0; c < s.channels && vectors; ++c) {
    if (g.bias_gradient != nullptr) g.bias_gradient[c] = static_cast<float>(totals[c]);
    if (g.weight_gradient != nullptr) g.weight_gradient[c] = static_cast<float>(totals[s.channels + c]);
  }
}

}  // namespace convlane
