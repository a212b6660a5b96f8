// Group normalisation, forward and gradients.
#include "ops/group_norm.h"

#include <cmath>

#include "kernels/table.h"
#include "ops/parallel.h"
#include "ops/view.h"
#include "ops/wide_rows.h"
#include "runtime/machine.h"

namespace convlane {

GroupNormShape describe_group_norm(int64_t images, int64_t channels, int64_t groups, int64_t pixels,
                                   bool channels_last) {
  if (groups < 1 || channels % groups != 0)
    throw std::invalid_argument("group_norm: " + std::to_string(channels) + " channels do not fall into " +
                                std::to_string(groups) + " groups");
  return {images, channels, groups, pixels, channels_last || pixels == 1};
}

namespace {

// The arrays as the kernels see them: as units, each of which is a sequence of rows of channels. A unit is an image or,
// where the pixels of each channel are adjacent, a channel of one. The rows of a unit are joined into wide rows, and
// these are taken in chunks; which numbers are summed together does not depend on anything else.
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
  int64_t rest() const { return size() - wide * width; }  // numbers after the last wide row
  int64_t rows_of(int64_t chunk) const { return std::min(kRows, wide - chunk * kRows); }
};

// Images that stay in a cache from one pass over them to the next.
int64_t images_at_once(const GroupNormShape& s) {
  return std::clamp<int64_t>(second_level_floats(1) / std::max<int64_t>(1, s.channels * s.pixels), 1,
                             std::max<int64_t>(1, s.images));
}

// Calls body(unit, chunk, first number, rows, width) for the chunks of `count` units, and for the rest of each unit as
// one more row; units are counted from `first_unit`, numbers from the start of the array. The last chunk comes first:
// of those that the previous pass has read, it is the one still in the caches.
template <class Body>
void for_chunks(const Units& u, int64_t first_unit, int64_t count, int threads, const Body& body) {
  parallel_for(count * u.chunks, threads, [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t task = end; task-- > begin;) {
      const int64_t unit = task / u.chunks, chunk = task % u.chunks;
      const int64_t start = (first_unit + unit) * u.size(), at = start + chunk * Units::kRows * u.width;
      if (u.wide > 0) body(unit, chunk, at, u.rows_of(chunk), u.width);
      if (chunk == u.chunks - 1 && u.rest() > 0) body(unit, chunk, start + u.wide * u.width, 1, u.rest());
    }
  });
}

// Means and biased variances of an image's groups, channels last, from the moments of its chunks. `memory` has room
// for two numbers of each channel.
void merge_groups(const GroupNormShape& s, const Units& u, const double* parts, const float* image, double* memory,
                  double* means, double* variances) {
  double *const sums = memory, *const middles = memory + s.channels;
  const int64_t in_group = s.channels / s.groups;
  const double count = static_cast<double>(in_group * s.pixels);
  // Calls of_part(means of the channels, squares, rows) for all that was taken together, then of_rest(numbers of the
  // channels) for the other rows.
  const auto for_parts = [&](const auto& of_part, const auto& of_rest) {
    for (int64_t chunk = 0; chunk < u.chunks && u.wide > 0; ++chunk)
      for (int64_t phase = 0; phase < u.together; ++phase) {
        const double* part = parts + chunk * 2 * u.width + phase * s.channels;
        of_part(part, part + u.width, static_cast<double>(u.rows_of(chunk)));
      }
    for (int64_t row = u.wide * u.together; row < u.rows; ++row) of_rest(image + row * s.channels);
  };
  const auto total = [&](double* of_group) {
    for (int64_t group = 0; group < s.groups; ++group) {
      double sum = 0;
      for (int64_t c = group * in_group; c < (group + 1) * in_group; ++c) sum += sums[c];
      of_group[group] = sum / count;
    }
  };
  std::fill_n(sums, s.channels, 0.0);
  for_parts(
      [&](const double* mean, const double*, double rows) {
        for (int64_t c = 0; c < s.channels; ++c) sums[c] += mean[c] * rows;
      },
      [&](const float* numbers) {
        for (int64_t c = 0; c < s.channels; ++c) sums[c] += static_cast<double>(numbers[c]);
      });
  total(means);
  std::fill_n(sums, s.channels, 0.0);
  for (int64_t c = 0; c < s.channels; ++c) middles[c] = means[c / in_group];
  for_parts(
      [&](const double* mean, const double* squares, double rows) {
        for (int64_t c = 0; c < s.channels; ++c) {
          const double distance = mean[c] - middles[c];
          sums[c] += squares[c] + distance * distance * rows;
        }
      },
      [&](const float* numbers) {
        for (int64_t c = 0; c < s.channels; ++c) {
          const double distance = static_cast<double>(numbers[c]) - middles[c];
          sums[c] += distance * distance;
        }
      });
  total(variances);
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

struct ForwardArgs {
  const float *src, *weight, *bias;
  double eps;
  double *mean, *variance;
  float* dst;

  // x -> (x - center) * scale + shift for a channel; what rounding the mean leaves goes into the shift.
  double scale(int64_t channel, double var) const {
    return (weight != nullptr ? weight[channel] : 1.0) / std::sqrt(var + eps);
  }
  double shift(int64_t channel, double middle, double var) const {
    const double left = middle - static_cast<double>(static_cast<float>(middle));
    return (bias != nullptr ? bias[channel] : 0.0) - left * scale(channel, var);
  }
};

// Channels last: one pass over the images for the moments of all channels, another that normalises.
struct ImagesMemory {
  double *parts, *sums;
  float* factors;

  ImagesMemory(const GroupNormShape& s, const Units& u, Scratch& scratch)
      : parts(scratch.take<double>(part_numbers(s, u))),
        sums(scratch.take<double>(checked_mul(images_at_once(s), 2 * s.channels))),
        factors(scratch.take<float>(factor_numbers(s, u, kVectors))) {}
};

void normalize_images(const GroupNormShape& s, const ForwardArgs& args, int limit, Scratch& scratch) {
  const Units u(s);
  const ImagesMemory memory(s, u, scratch);
  const KernelTable& kernels = active_table();
  const int64_t in_group = s.channels / s.groups, at_once = images_at_once(s);
  for (int64_t image = 0; image < s.images; image += at_once) {
    const int64_t images = std::min(at_once, s.images - image);
    const int threads = threads_for(2 * images * u.size(), limit);
    for_chunks(u, image, images, threads,
               [&](int64_t unit, int64_t chunk, int64_t at, int64_t rows, int64_t width) noexcept {
                 if (width != u.width) return;  // the rest is too short to be worth a vector
                 double* part = memory.parts + (unit * u.chunks + chunk) * 2 * u.width;
                 kernels.moments(args.src + at, rows, width, part, part + width);
               });
    parallel_for(images, threads, [&](int64_t begin, int64_t end, int) noexcept {
      for (int64_t i = begin; i < end; ++i) {
        double *means = args.mean + (image + i) * s.groups, *variances = args.variance + (image + i) * s.groups;
        merge_groups(s, u, memory.parts + i * u.chunks * 2 * u.width, args.src + (image + i) * u.size(),
                     memory.sums + i * 2 * s.channels, means, variances);
        float* center = memory.factors + i * kVectors * u.width;
        fill(u, 0, center, [=](int64_t c) { return means[c / in_group]; });
        fill(u, 0, center + u.width, [=](int64_t c) { return args.scale(c, variances[c / in_group]); });
        fill(u, 0, center + 2 * u.width,
             [=](int64_t c) { return args.shift(c, means[c / in_group], variances[c / in_group]); });
      }
    });
    for_chunks(u, image, images, threads, [&](int64_t unit, int64_t, int64_t at, int64_t rows, int64_t width) noexcept {
      const float* center = memory.factors + unit * kVectors * u.width;
      kernels.normalize(args.src + at, args.dst + at, rows,
                        {width, center, center + u.width, center + 2 * u.width, Activation::none, 0, nullptr});
    });
  }
}

// C order: the numbers of a group are contiguous, in chunks whose moments are joined in order.
class Groups {
 public:
  Groups(const GroupNormShape& s, const ForwardArgs& args, double* parts)
      : s_(s), args_(args), kernels_(active_table()), parts_(parts) {}

  static int64_t size(const GroupNormShape& s) { return s.channels / s.groups * s.pixels; }
  static int64_t chunks(const GroupNormShape& s) { return ceil_div(size(s), kChunk); }

  void add_up(int64_t group, int64_t chunk) const {
    double* part = parts_ + (group * chunks(s_) + chunk) * 2;
    kernels_.row_moments(args_.src + group * size(s_) + chunk * kChunk, numbers_of(chunk), part, part + 1);
  }

  void join(int64_t group) const {
    const double* part = parts_ + group * chunks(s_) * 2;
    double mean = part[0], squares = part[1], before = static_cast<double>(numbers_of(0));
    for (int64_t chunk = 1; chunk < chunks(s_); ++chunk) {
      const double added = static_cast<double>(numbers_of(chunk)), both = before + added;
      const double distance = part[2 * chunk] - mean;
      mean += distance * (added / both);
      squares += part[2 * chunk + 1] + distance * distance * (before * added / both);
      before = both;
    }
    args_.mean[group] = mean;
    args_.variance[group] = squares / static_cast<double>(size(s_));
  }

  // The numbers of a chunk, channel by channel.
  void normalize(int64_t group, int64_t chunk) const {
    const int64_t first = group * size(s_) + chunk * kChunk, end = first + numbers_of(chunk);
    for (int64_t at = first; at < end;) {
      const int64_t channel = at / s_.pixels, stop = std::min(end, (channel + 1) * s_.pixels);
      normalize_channel(channel, at, stop - at);
      at = stop;
    }
  }

 private:
  static constexpr int64_t kChunk = 1 << 14;

  int64_t numbers_of(int64_t chunk) const { return std::min(kChunk, size(s_) - chunk * kChunk); }

  // As rows of some vectors, all with the same factors.
  void normalize_channel(int64_t channel, int64_t at, int64_t count) const {
    constexpr int64_t kWidth = 64;
    const double mean = args_.mean[at / size(s_)], variance = args_.variance[at / size(s_)];
    const int64_t c = channel % s_.channels, width = std::min(kWidth, count), rows = count / width;
    alignas(kAlignment) float center[kWidth], scale[kWidth], shift[kWidth];
    std::fill_n(center, width, static_cast<float>(mean));
    std::fill_n(scale, width, static_cast<float>(args_.scale(c, variance)));
    std::fill_n(shift, width, static_cast<float>(args_.shift(c, mean, variance)));
    const auto run = [&](int64_t begin, int64_t count_of_rows, int64_t width_of_row) {
      kernels_.normalize(args_.src + begin, args_.dst + begin, count_of_rows,
                         {width_of_row, center, scale, shift, Activation::none, 0, nullptr});
    };
    run(at, rows, width);
    if (count > rows * width) run(at + rows * width, 1, count - rows * width);
  }

  const GroupNormShape& s_;
  const ForwardArgs& args_;
  const KernelTable& kernels_;
  double* parts_;
};

double* take_group_parts(const GroupNormShape& s, Scratch& scratch) {
  return scratch.take<double>(checked_mul(checked_mul(s.images, s.groups), 2 * Groups::chunks(s)));
}

// Where there are enough groups for all threads, each is normalised while caches still have it.
void normalize_groups(const GroupNormShape& s, const ForwardArgs& args, int limit, Scratch& scratch) {
  const Groups groups(s, args, take_group_parts(s, scratch));
  const int64_t count = s.images * s.groups, chunks = Groups::chunks(s);
  const int threads = threads_for(2 * s.count(), limit);
  if (threads == 1 || count >= 4 * threads) {
    parallel_for(count, threads, [&](int64_t begin, int64_t end, int) noexcept {
      for (int64_t group = begin; group < end; ++group) {
        for (int64_t chunk = 0; chunk < chunks; ++chunk) groups.add_up(group, chunk);
        groups.join(group);
        for (int64_t chunk = chunks; chunk-- > 0;) groups.normalize(group, chunk);
      }
    });
    return;
  }
  parallel_for(count * chunks, threads, [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t task = begin; task < end; ++task) groups.add_up(task / chunks, task % chunks);
  });
  for (int64_t group = 0; group < count; ++group) groups.join(group);
  parallel_for(count * chunks, threads, [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t task = end; task-- > begin;) groups.normalize(task / chunks, task % chunks);
  });
}

}  // namespace

void reserve_group_norm(const GroupNormShape& s, Scratch& scratch) {
  if (s.count() == 0) return;
  if (s.channels_last)
    ImagesMemory(s, Units(s), scratch);
  else
    take_group_parts(s, scratch);
}

void run_group_norm(const GroupNormShape& s, const float* src, const float* weight, const float* bias, double eps,
                    double* mean, double* variance, float* dst, int limit, Scratch& scratch) {
  if (s.count() == 0) {
    std::fill_n(mean, s.images * s.groups, std::nan(""));
    std::fill_n(variance, s.images * s.groups, std::nan(""));
    return;
  }
  const ForwardArgs args{src, weight, bias, eps, mean, variance, dst};
  (s.channels_last ? normalize_images : normalize_groups)(s, args, limit, scratch);
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
        const auto left = [=](int64_t c) {  // the part of the mean that rounding has lost
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
