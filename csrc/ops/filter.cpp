// The unit of work is a band of output rows. Rows of the picture are padded, and bytes widened, into a ring with as
// many rows as the kernel; where a row kernel follows a column kernel, the column's result stays in the cache.
#include "ops/filter.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <type_traits>

#include "kernels/table.h"
#include "ops/parallel.h"
#include "runtime/buffer.h"

namespace convlane {
namespace {

void filter(const KernelTable& kernels, const FilterArgs<float>& args) { kernels.filter_row(args); }
void filter(const KernelTable& kernels, const FilterArgs<double>& args) { kernels.filter_row_double(args); }

void widen(const KernelTable& kernels, const std::uint8_t* src, int64_t count, float* dst) {
  kernels.widen_bytes(src, count, dst);
}
template <class T, class S>
void widen(const KernelTable&, const T* src, int64_t count, S* dst) {
  std::copy_n(src, count, dst);
}

void narrow(const KernelTable& kernels, const float* src, int64_t count, double slack, std::uint8_t* dst) {
  kernels.narrow_to_bytes(src, count, static_cast<float>(slack), dst);
}
void narrow(const KernelTable&, const double* src, int64_t count, double slack, std::uint8_t* dst) {
  constexpr double kMost = 1 << 30;
  for (int64_t i = 0; i < count; ++i)
    dst[i] = static_cast<std::uint8_t>(
        static_cast<std::int32_t>(std::clamp(src[i] + std::copysign(slack, src[i]), -kMost, kMost)));
}

// Coefficients of 0 contribute nothing, not even a NaN.
template <class S>
int64_t write_taps(const std::vector<double>& kernel, int64_t columns, int64_t channels, FilterTap<S>* taps) {
  int64_t count = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(kernel.size()); ++i)
    if (kernel[i] != 0) taps[count++] = {i / columns, i % columns * channels, static_cast<S>(kernel[i])};
  return count;
}

double sum_of_sizes(const std::vector<double>& kernel) {
  double sum = 0;
  for (const double weight : kernel) sum += std::fabs(weight);
  return sum;
}

// How far rounding may leave a sum of bytes below an integer: the errors of its terms add up like a random walk.
template <class S>
double slack_of(const FilterDesc& d) {
  const double terms = static_cast<double>(d.first.size() + d.second.size());
  const double largest = 255 * sum_of_sizes(d.first) * (d.second.empty() ? 1 : sum_of_sizes(d.second));
  return std::min(0.25, largest * (std::numeric_limits<S>::epsilon() / 2) * (4 + std::sqrt(terms)));
}

// Calls run(S{}), where S is the type of the sums. For bytes that is float32, unless its rounding would change more
// than one pixel in a hundred.
template <class T, class Run>
void in_sums_of(const FilterDesc& d, const Run& run) {
  constexpr double kMostSlack = 0.01;
  if constexpr (std::is_same_v<T, std::uint8_t>)
    slack_of<float>(d) <= kMostSlack ? run(float{}) : run(double{});
  else
    run(T{});
}

// How the output rows are split, and the scratch of a run.
template <class S>
struct Bands {
  int threads;
  int64_t rows, count;
  int64_t padded, between;  // numbers of a row of the ring, and of the result between column and row
  FilterTap<S>*first, *second;
  S *ring, *middle, *result;
  const S** pointers;

  Bands(const FilterDesc& d, int limit, bool narrows, Scratch& scratch) {
    const int64_t outputs = checked_mul(d.out_width(), d.channels);
    const int64_t taps = static_cast<int64_t>(d.first.size() + d.second.size());
    threads = threads_for(checked_mul(checked_mul(d.out_height(), outputs), taps), limit);
    // Four tasks per thread even out interference from other programs.
    rows = ceil_div(d.out_height(), threads > 1 ? 4 * threads : 1);
    count = ceil_div(d.out_height(), rows);
    constexpr int64_t kLine = kAlignment / sizeof(S);
    padded = round_up(checked_mul(d.padded_width(), d.channels), kLine);
    between = d.second.empty() ? 0 : padded;
    first = scratch.take<FilterTap<S>>(static_cast<int64_t>(d.first.size()));
    second = scratch.take<FilterTap<S>>(static_cast<int64_t>(d.second.size()));
    ring = scratch.take<S>(checked_mul(threads, checked_mul(padded, d.kernel_h)));
    middle = scratch.take<S>(checked_mul(threads, between));
    result = scratch.take<S>(narrows ? checked_mul(threads, round_up(outputs, kLine)) : 0);
    pointers = scratch.take<const S*>(checked_mul(threads, d.kernel_h));
  }
};

template <class T, class S>
void pad_row(const FilterDesc& d, const KernelTable& kernels, const T* src, int64_t row, S* dst) {
  const int64_t c = d.channels;
  if (row < 0) {
    std::fill_n(dst, d.padded_width() * c, static_cast<S>(d.fill));
    return;
  }
  const T* from = src + row * d.width * c;
  const auto beside = [&](const std::vector<int64_t>& columns) {
    for (const int64_t column : columns)
      for (int64_t i = 0; i < c; ++i)
        *dst++ = column < 0 ? static_cast<S>(d.fill) : static_cast<S>(from[column * c + i]);
  };
  beside(d.before);
  widen(kernels, from, d.width * c, dst);
  dst += d.width * c;
  beside(d.after);
}

template <class T, class S>
void run(const FilterDesc& d, const T* src, T* dst, int limit, Scratch& scratch) {
  constexpr bool kNarrows = !std::is_same_v<T, S>;
  const Bands<S> b(d, limit, kNarrows, scratch);
  const int64_t first_taps = write_taps(d.first, d.kernel_w, d.channels, b.first);
  const int64_t second_taps = write_taps(d.second, std::max<int64_t>(d.second.size(), 1), d.channels, b.second);
  const int64_t outputs = d.out_width() * d.channels, height = d.kernel_h;
  const double slack = slack_of<S>(d);
  const KernelTable& kernels = active_table();
  parallel_for(b.count, b.threads, [&](int64_t begin, int64_t end, int part) noexcept {
    S* ring = b.ring + part * height * b.padded;
    S* middle = b.middle + part * b.between;
    const S** rows = b.pointers + part * height;
    const auto slot = [&](int64_t y) { return ring + y % height * b.padded; };
    const int64_t from = begin * b.rows, to = std::min(end * b.rows, d.out_height());
    for (int64_t y = from; y < from + height - 1; ++y) pad_row(d, kernels, src, d.rows[y], slot(y));
    for (int64_t y = from; y < to; ++y) {
      pad_row(d, kernels, src, d.rows[y + height - 1], slot(y + height - 1));
      for (int64_t r = 0; r < height; ++r) rows[r] = slot(y + r);
      T* out = dst + y * outputs;
      S* sums;
      if constexpr (kNarrows)
        sums = b.result + part * round_up(outputs, kAlignment / static_cast<int64_t>(sizeof(S)));
      else
        sums = out;
      if (d.second.empty()) {
        filter(kernels, FilterArgs<S>{rows, b.first, first_taps, outputs, sums});
      } else {
        filter(kernels, FilterArgs<S>{rows, b.first, first_taps, d.padded_width() * d.channels, middle});
        const S* const row = middle;
        filter(kernels, FilterArgs<S>{&row, b.second, second_taps, outputs, sums});
      }
      if constexpr (kNarrows) narrow(kernels, sums, outputs, slack, out);
    }
  });
}

}  // namespace

void check_filter(const FilterDesc& d) {
  const auto refuse = [](const char* what) { throw std::invalid_argument(std::string("filter: ") + what); };
  if (d.height < 1 || d.width < 1 || d.channels < 1) refuse("the picture is empty");
  if (d.kernel_h < 1 || d.kernel_w < 1) refuse("the kernel is empty");
  if (!d.second.empty() && d.kernel_w != 1) refuse("a row follows a column only");
  const auto within = [](const std::vector<int64_t>& indices, int64_t size) {
    return std::all_of(indices.begin(), indices.end(), [size](int64_t i) { return i >= -1 && i < size; });
  };
  if (!within(d.rows, d.height) || !within(d.before, d.width) || !within(d.after, d.width))
    refuse("an index is out of range");
  if (d.out_height() < 1 || d.out_width() < 1) refuse("the kernel is larger than the padded picture");
}

template <class T>
void run_filter(const FilterDesc& desc, const T* src, T* dst, int threads) {
  in_sums_of<T>(desc, [&](auto sum) {
    using S = decltype(sum);
    with_scratch([&](Scratch& scratch) { Bands<S>(desc, threads, !std::is_same_v<T, S>, scratch); },
                 [&](Scratch& scratch) { run<T, S>(desc, src, dst, threads, scratch); });
  });
}

template void run_filter(const FilterDesc&, const std::uint8_t*, std::uint8_t*, int);
template void run_filter(const FilterDesc&, const float*, float*, int);
template void run_filter(const FilterDesc&, const double*, double*, int);

}  // namespace convlane
