// Reductions over any dimensions: each becomes rows or columns for the kernels, and long ones become chunks.
#include "ops/reduce.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "ops/elementwise.h"
#include "ops/strided.h"
#include "ops/view.h"

namespace convlane {
namespace {

constexpr int64_t kChunk = 1 << 16;  // numbers of one result that are joined by one task, and then once more
// Results side by side. Of few the lanes' sums stay in the first-level cache; but rows that come from memory are read
// in longer pieces: the columns of 4096 x 2048 numbers at 8.3 GB/s instead of 4.6, of 1024 x 1024 at 18.0 instead of
// 23.3 (Cascade Lake, AVX-512, one thread, 2026-11-28).
constexpr int64_t kFewColumns = 128, kManyColumns = 512, kFromMemory = 1 << 21;
constexpr int kLargestLanes = 16;
constexpr int64_t kBlockRows = 8 * kLargestLanes;  // of whole trees, whatever the lanes

// What is reduced and what is kept, each merged and outermost first, with the strides in src.
struct Plan {
  Loop<1> kept, reduced;
  int64_t results, count, chunk, chunks;
  int column;  // the kept dimension along which src is dense, where rows of it are joined; else -1
  int64_t width() const { return column < 0 ? 1 : kept.shape[column]; }
  int64_t columns() const { return std::min(width(), results * count > kFromMemory ? kManyColumns : kFewColumns); }
};

Plan plan_of(const Tensor& src, const std::array<bool, kMaxRank>& reduced) {
  Plan plan{};
  std::array<int, kMaxRank> order{};
  int count = 0;
  for (int d = 0; d < src.rank; ++d) {
    if (src.shape[d] == 1) continue;
    if (reduced[d])
      order[count++] = d;
    else
      plan.kept.append(src.shape[d], {src.strides[d]});
  }
  sort_few(order.begin(), order.begin() + count,
           [&](int a, int b) { return std::abs(src.strides[a]) > std::abs(src.strides[b]); });
  for (int i = 0; i < count; ++i) plan.reduced.append(src.shape[order[i]], {src.strides[order[i]]});
  plan.kept.merge();
  plan.reduced.merge();
  plan.results = plan.kept.count(0, plan.kept.rank);
  plan.count = plan.reduced.count(0, plan.reduced.rank);
  plan.chunk = std::min(kChunk, std::max<int64_t>(plan.count, 1));
  plan.chunks = std::max<int64_t>(1, ceil_div(plan.count, plan.chunk));
  plan.column = -1;
  const bool dense_rows = plan.reduced.rank > 0 && plan.reduced.strides[plan.reduced.rank - 1][0] == 1;
  for (int d = 0; d < plan.kept.rank && !dense_rows; ++d)
    if (plan.kept.strides[d][0] == 1) plan.column = d;
  return plan;
}

Reduction reduction_of(Reduce op) {
  switch (op) {
    case Reduce::prod:
      return Reduction::product;
    case Reduce::amax:
      return Reduction::maximum;
    case Reduce::amin:
      return Reduction::minimum;
    default:
      return Reduction::sum;
  }
}

double neutral_of(Reduction op) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return op == Reduction::product   ? 1
         : op == Reduction::maximum ? -kInfinity
         : op == Reduction::minimum ? kInfinity
                                    : 0;
}

double joined(Reduction op, double a, double b) {
  switch (op) {
    case Reduction::product:
      return a * b;
    case Reduction::maximum:
      return b > a || b != b ? b : a;
    case Reduction::minimum:
      return b < a || b != b ? b : a;
    default:
      return a + b;
  }
}

template <class Join>
void join_halves(double* lanes, int64_t columns, int lanes_of_a_vector, int64_t used, Join join) {
  for (int64_t width = lanes_of_a_vector / 2; width > 0; width /= 2) {
    const double* other = lanes + width * columns;
    const int64_t count = (std::min(2 * width, used) - width) * columns;
    for (int64_t i = 0; i < count; ++i) lanes[i] = join(lanes[i], other[i]);
  }
}

// Joins the first `used` of the lanes' numbers, each lane's side by side for all columns, by halves.
void join_lanes(Reduction op, double* lanes, int64_t columns, int lanes_of_a_vector, int64_t used) {
  switch (op) {
    case Reduction::sum:
    case Reduction::squares:
      return join_halves(lanes, columns, lanes_of_a_vector, used, [](double a, double b) { return a + b; });
    case Reduction::product:
      return join_halves(lanes, columns, lanes_of_a_vector, used, [](double a, double b) { return a * b; });
    case Reduction::maximum:
    case Reduction::minimum:
      return;  // the kernels have joined them
  }
}

// One pass over src, whose results finish(result, value) takes.
struct Pass {
  const Plan& plan;
  const float* src;
  Reduction op;
  const float* shift;  // one per result, or null
};

// The numbers [begin, end) of a row; rows that are not dense are gathered.
double join_row(const KernelTable& kernels, const Pass& pass, const float* src, float shift, int64_t begin,
                int64_t end) noexcept {
  const Loop<1>& loop = pass.plan.reduced;
  const int last = loop.rank - 1;
  double lanes[kLargestLanes];
  std::fill_n(lanes, kLargestLanes, neutral_of(pass.op));
  const bool dense = loop.rank > 0 && loop.strides[last][0] == 1;
  if (loop.rank == 0 || begin == end || (loop.rank == 1 && dense)) {  // of an empty array a size may be 0
    kernels.reduce_row(pass.op, src + begin, end - begin, shift, lanes);
  } else if (dense && loop.shape[last] % kBlockRows == 0) {  // runs that cut no tree
    const int64_t run = loop.shape[last];
    int64_t done = begin;
    loop.walk(0, last, begin / run, ceil_div(end, run), [&](const Offsets<1>& offset) {
      const int64_t first = done % run, count = std::min(run - first, end - done);
      kernels.reduce_row(pass.op, src + offset[0] + first, count, shift, lanes);
      done += count;
    });
  } else {
    constexpr int64_t kGathered = 1024;
    static_assert(kGathered % kBlockRows == 0, "trees are not cut");
    float gathered[kGathered];
    const int64_t run = loop.shape[last], step = loop.strides[last][0];
    for (int64_t at = begin; at < end; at += kGathered) {
      const int64_t stop = std::min(end, at + kGathered);
      int64_t done = at;
      loop.walk(0, last, at / run, ceil_div(stop, run), [&](const Offsets<1>& offset) {
        const int64_t first = done % run, count = std::min(run - first, stop - done);
        const float* from = src + offset[0] + first * step;
        float* to = gathered + (done - at);
        if (step == 1)
          std::copy_n(from, count, to);
        else
          for (int64_t i = 0; i < count; ++i) to[i] = from[i * step];
        done += count;
      });
      kernels.reduce_row(pass.op, gathered, stop - at, shift, lanes);
    }
  }
  join_lanes(pass.op, lanes, 1, kernels.lanes, std::min<int64_t>(kernels.lanes, end - begin));
  return lanes[0];
}

// The numbers [begin, end) of results side by side. sums: columns * lanes numbers.
void join_columns(const KernelTable& kernels, const Pass& pass, const float* src, const float* shift, int64_t columns,
                  int64_t begin, int64_t end, double* sums) noexcept {
  const bool one_lane = pass.op == Reduction::maximum || pass.op == Reduction::minimum;
  const int64_t used = one_lane ? 1 : std::clamp<int64_t>(end - begin, 1, kernels.lanes), block = 8 * kernels.lanes;
  std::fill_n(sums, used * columns, neutral_of(pass.op));
  const float* rows[kBlockRows];
  int64_t filled = 0, left = end - begin;
  pass.plan.reduced.walk(0, pass.plan.reduced.rank, begin, end, [&](const Offsets<1>& offset) {
    rows[filled++] = src + offset[0];
    --left;
    if (filled == block || left == 0) {
      kernels.reduce_columns(pass.op, rows, filled, columns, shift, sums);
      filled = 0;
    }
  });
  join_lanes(pass.op, sums, columns, kernels.lanes, used);
}

// Calls found(result, chunk, value) for every row, or chunk of a row.
template <class Found>
void run_rows(const Pass& pass, int threads, const Found& found) {
  const Plan& plan = pass.plan;
  const KernelTable& kernels = active_table();
  const bool dense = plan.reduced.rank == 1 && plan.reduced.strides[0][0] == 1;
  if (dense && plan.kept.rank <= 1 && plan.chunks == 1) {  // rows of a matrix, which the kernel walks itself
    const int64_t stride = plan.kept.rank == 0 ? 0 : plan.kept.strides[0][0];
    parallel_for(plan.results, threads, [&](int64_t begin, int64_t end, int) noexcept {
      constexpr int64_t kRows = 64;
      double values[kRows];
      for (int64_t first = begin; first < end; first += kRows) {
        const int64_t rows = std::min(kRows, end - first);
        kernels.reduce_rows(pass.op, pass.src + first * stride, stride, rows, plan.count,
                            pass.shift == nullptr ? nullptr : pass.shift + first, values);
        for (int64_t row = 0; row < rows; ++row) found(first + row, 0, values[row]);
      }
    });
    return;
  }
  parallel_for(plan.results * plan.chunks, threads, [&](int64_t task_begin, int64_t task_end, int) noexcept {
    int64_t result = task_begin / plan.chunks, chunk = task_begin % plan.chunks, left = task_end - task_begin;
    plan.kept.walk(0, plan.kept.rank, result, ceil_div(task_end, plan.chunks), [&](const Offsets<1>& offset) {
      const float shift = pass.shift == nullptr ? 0 : pass.shift[result];
      for (; chunk < plan.chunks && left > 0; ++chunk, --left) {
        const int64_t begin = chunk * plan.chunk, end = std::min(plan.count, begin + plan.chunk);
        found(result, chunk, join_row(kernels, pass, pass.src + offset[0], shift, begin, end));
      }
      ++result;
      chunk = 0;
    });
  });
}

// The same where results lie side by side.
template <class Found>
void run_columns(const Pass& pass, int threads, double* sums, const Found& found_one) {
  const Plan& plan = pass.plan;
  const KernelTable& kernels = active_table();
  const int64_t width = plan.width(), columns = plan.columns(), groups = ceil_div(width, columns);
  Loop<1> outer = plan.kept;  // without the dimension of the columns, which is the last of the results' where it counts
  int64_t apart = 1;          // results from one column to the next
  for (int d = plan.kept.rank - 1; d > plan.column; --d) apart *= plan.kept.shape[d];
  outer.shape[plan.column] = groups;
  outer.strides[plan.column] = {columns};
  const int64_t tasks = outer.count(0, outer.rank);
  parallel_for(tasks * plan.chunks, threads, [&](int64_t task_begin, int64_t task_end, int part) noexcept {
    int64_t task = task_begin;
    outer.walk(0, outer.rank, task_begin / plan.chunks, ceil_div(task_end, plan.chunks), [&](const Offsets<1>& offset) {
      for (const int64_t next = (task / plan.chunks + 1) * plan.chunks; task < std::min(task_end, next); ++task) {
        const int64_t chunk = task % plan.chunks, position = task / plan.chunks;
        const int64_t begin = chunk * plan.chunk, end = std::min(plan.count, begin + plan.chunk);
        // The first result: positions count groups instead of columns.
        const int64_t group = position / apart % groups;
        const int64_t result = (position / apart / groups * width + group * columns) * apart + position % apart;
        const int64_t count = std::min(columns, width - group * columns);
        double* const found = sums + part * columns * kLargestLanes;
        float shifts[kManyColumns] = {};
        for (int64_t c = 0; pass.shift != nullptr && c < count; ++c) shifts[c] = pass.shift[result + c * apart];
        join_columns(kernels, pass, pass.src + offset[0], shifts, count, begin, end, found);
        for (int64_t c = 0; c < count; ++c) found_one(result + c * apart, chunk, found[c]);
      }
    });
  });
}

// partial: one number per chunk of every result, where there are several.
template <class Finish>
void run_pass(const Pass& pass, int threads, double* partial, double* sums, const Finish& finish) {
  const Plan& plan = pass.plan;
  const auto found = [&plan, partial, &finish](int64_t result, int64_t chunk, double value) noexcept {
    if (plan.chunks == 1)
      finish(result, value);
    else
      partial[result * plan.chunks + chunk] = value;
  };
  if (plan.column < 0)
    run_rows(pass, threads, found);
  else
    run_columns(pass, threads, sums, found);
  if (plan.chunks == 1) return;
  for (int64_t result = 0; result < plan.results; ++result) {
    double total = partial[result * plan.chunks];
    for (int64_t chunk = 1; chunk < plan.chunks; ++chunk)
      total = joined(pass.op, total, partial[result * plan.chunks + chunk]);
    finish(result, total);
  }
}

struct ReduceMemory {
  double *partial, *sums;
  double* rests;  // of means that were rounded to float32
  ReduceMemory(const Plan& plan, Reduce op, int threads, Scratch& scratch)
      : partial(scratch.take<double>(plan.chunks == 1 ? 0 : checked_mul(plan.results, plan.chunks))),
        sums(scratch.take<double>(plan.column < 0 ? 0 : threads * plan.columns() * kLargestLanes)),
        rests(scratch.take<double>(op == Reduce::var ? plan.results : 0)) {}
};

}  // namespace

Reduce reduce_from_name(const std::string& name) {
  static constexpr std::array<const char*, 6> kNames{"sum", "mean", "var", "prod", "amax", "amin"};
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (name == kNames[i]) return static_cast<Reduce>(i);
  throw std::invalid_argument("unknown reduction '" + name + "'");
}

void reserve_reduce(const ReduceArgs& args, int threads, Scratch& scratch) {
  ReduceMemory(plan_of(args.src, args.reduced), args.op, threads, scratch);
}

void run_reduce(const ReduceArgs& args, int threads, Scratch& scratch) {
  const Plan plan = plan_of(args.src, args.reduced);
  if (plan.count == 0 && (args.op == Reduce::amax || args.op == Reduce::amin))
    throw std::invalid_argument("the maximum or minimum of no numbers is undefined");
  const ReduceMemory memory(plan, args.op, threads, scratch);
  if (plan.results == 0) return;
  const Reduction op = reduction_of(args.op);
  const double count = static_cast<double>(plan.count);
  float* dst = args.dst;
  const Pass pass{plan, args.src.floats(), op, nullptr};
  double* const rests = args.op == Reduce::var ? memory.rests : nullptr;
  const bool averages = args.op == Reduce::mean || args.op == Reduce::var;
  run_pass(pass, threads, memory.partial, memory.sums, [=](int64_t result, double value) noexcept {
    const double exact = averages ? value / count : value;
    dst[result] = static_cast<float>(exact);
    if (rests != nullptr) rests[result] = exact - static_cast<double>(dst[result]);
  });
  if (args.op != Reduce::var) return;
  // Squares of deviations from another number than the mean are too large by the square of the difference, each.
  const double divisor = std::max(count - args.correction, 0.0);
  const Pass squares{plan, args.src.floats(), Reduction::squares, dst};
  run_pass(squares, threads, memory.partial, memory.sums, [=](int64_t result, double value) noexcept {
    dst[result] = static_cast<float>(std::max(value - count * rests[result] * rests[result], 0.0) / divisor);
  });
}

void run_arg(bool largest, const float* src, const Along& along, int64_t* dst) {
  constexpr int64_t kStrip = 64;
  const auto [outer, count, inner] = along;
  const KernelTable& kernels = active_table();
  const int64_t strips = ceil_div(inner, kStrip);
  parallel_for(outer * strips, threads_for(outer * count * inner),
               [&, count = count, inner = inner](int64_t begin, int64_t end, int) noexcept {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t row = task / strips, first = task % strips * kStrip;
                   const float* from = src + row * count * inner + first;
                   if (inner == 1)
                     dst[row] = kernels.arg_row(largest, from, count);
                   else
                     kernels.arg_columns(largest, from, inner, count, std::min(kStrip, inner - first),
                                         dst + row * inner + first);
                 }
               });
}

namespace {

// Sums along Rows rows of `count` numbers at a time: each is a chain of additions, which wait for each other.
template <int64_t Rows>
void sum_rows(const float* src, float* dst, int64_t count, bool reverse) noexcept {
  double sums[Rows] = {};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = reverse ? count - 1 - i : i;
    for (int64_t r = 0; r < Rows; ++r) {
      sums[r] += static_cast<double>(src[r * count + at]);
      dst[r * count + at] = static_cast<float>(sums[r]);
    }
  }
}

void cumsum_of_rows(const float* src, int64_t rows, int64_t count, bool reverse, float* dst) {
  constexpr int64_t kRows = 4;
  parallel_for(ceil_div(rows, kRows), threads_for(rows * count), [=](int64_t begin, int64_t end, int) noexcept {
    int64_t row = begin * kRows;
    const int64_t stop = std::min(rows, end * kRows);
    for (; row + kRows <= stop; row += kRows) sum_rows<kRows>(src + row * count, dst + row * count, count, reverse);
    for (; row < stop; ++row) sum_rows<1>(src + row * count, dst + row * count, count, reverse);
  });
}

}  // namespace

void run_cumsum(const float* src, const Along& along, bool reverse, float* dst) {
  constexpr int64_t kStrip = 256;
  const auto [outer, count, inner] = along;
  if (inner == 1) return cumsum_of_rows(src, outer, count, reverse, dst);
  const int64_t strips = ceil_div(inner, kStrip);
  parallel_for(outer * strips, threads_for(outer * count * inner),
               [&, count = count, inner = inner](int64_t begin, int64_t end, int) noexcept {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t first = task % strips * kStrip, columns = std::min(kStrip, inner - first);
                   const int64_t at = task / strips * count * inner + first;
                   double sums[kStrip] = {};
                   for (int64_t i = 0; i < count; ++i) {
                     const int64_t row = at + (reverse ? count - 1 - i : i) * inner;
                     for (int64_t c = 0; c < columns; ++c) {
                       sums[c] += static_cast<double>(src[row + c]);
                       dst[row + c] = static_cast<float>(sums[c]);
                     }
                   }
                 }
               });
}

namespace {

constexpr int kIndexBits = 32;

// A number and its index as one integer, by which numbers are sorted: the bits of a float, all but its sign inverted
// where it is negative, rise as it does. The two zeros count as one number, and so do all NaN, which are the largest.
std::uint64_t key_of(float value, std::uint64_t index, std::uint32_t inverted) noexcept {
  constexpr std::uint32_t kSign = 0x80000000u, kInfinity = 0x7f800000u;
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const std::uint32_t size = bits & ~kSign;
  std::uint32_t rising = (bits & kSign) != 0 ? kSign - size : kSign + size;
  if (size > kInfinity) rising = ~0u;
  return std::uint64_t{rising ^ inverted} << kIndexBits | index;
}

}  // namespace

void run_topk(const float* src, const Along& along, int64_t k, bool largest, float* values, int64_t* indices,
              int64_t* memory, int threads) {
  const auto [outer, count, inner] = along;
  if (k == 0) return;
  if (count >> kIndexBits != 0) throw std::invalid_argument("topk: more than 2**32 numbers to choose from");
  const std::uint32_t inverted = largest ? ~0u : 0;
  const bool few = k * 64 <= count;  // then a heap of them is quicker than to part the numbers
  parallel_for(outer * inner, threads,
               [=, count = count, inner = inner](int64_t begin, int64_t end, int part) noexcept {
                 auto* keys = reinterpret_cast<std::uint64_t*>(memory) + part * count;
                 for (int64_t line = begin; line < end; ++line) {
                   const int64_t row = line / inner, column = line % inner;
                   const float* from = src + row * count * inner + column;
                   for (int64_t i = 0; i < count; ++i)
                     keys[i] = key_of(from[i * inner], static_cast<std::uint64_t>(i), inverted);
                   if (few) {
                     std::partial_sort(keys, keys + k, keys + count);
                   } else {
                     if (k < count) std::nth_element(keys, keys + k, keys + count);
                     std::sort(keys, keys + k);
                   }
                   for (int64_t i = 0; i < k; ++i) {
                     const int64_t to = (row * k + i) * inner + column;
                     indices[to] = static_cast<int64_t>(keys[i] & ((std::uint64_t{1} << kIndexBits) - 1));
                     values[to] = from[indices[to] * inner];
                   }
                 }
               });
}

namespace {

constexpr int64_t kSoftmaxWork = 16;  // an exponential is about as many multiply-adds
constexpr int64_t kStrip = 64;        // columns at a time

template <class Body>
void for_strips(const Along& along, const Body& body) {
  const int64_t strips = ceil_div(along.inner, kStrip);
  parallel_for(along.outer * strips, threads_for(along.outer * along.count * along.inner * kSoftmaxWork),
               [&](int64_t begin, int64_t end, int) noexcept {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t first = task % strips * kStrip;
                   body(task / strips * along.count * along.inner + first, std::min(kStrip, along.inner - first));
                 }
               });
}

}  // namespace

void run_softmax(const float* src, const Along& along, bool log, float* dst) {
  if (along.count == 0) return;
  if (along.inner == 1) return run_softmax(src, dst, along.outer, along.count, log);
  const auto kernel = active_table().softmax_columns;
  for_strips(along, [=](int64_t at, int64_t columns) noexcept {
    kernel(src + at, dst + at, along.count, along.inner, columns, log);
  });
}

void run_softmax_gradient(const float* output, const float* gradient, const Along& along, bool log, float* dst) {
  if (along.count == 0) return;
  if (along.inner == 1) return run_softmax_gradient(output, gradient, dst, along.outer, along.count, log);
  const auto kernel = active_table().softmax_columns_gradient;
  for_strips(along, [=](int64_t at, int64_t columns) noexcept {
    kernel(output + at, gradient + at, dst + at, along.count, along.inner, columns, log);
  });
}

}  // namespace convlane
