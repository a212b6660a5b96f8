// Pointwise functions by name, broadcasting, and the tiles that threads share.
#include "ops/pointwise.h"

#include <stdexcept>

#include "ops/strided.h"
#include "ops/view.h"

namespace convlane {
namespace {

constexpr int64_t kTile = 8192;  // numbers at a time

template <class Enum, std::size_t Count>
Enum from_name(const std::array<const char*, Count>& names, const std::string& name, const char* kind) {
  for (std::size_t i = 0; i < Count; ++i)
    if (name == names[i]) return static_cast<Enum>(i);
  throw std::invalid_argument("unknown " + std::string(kind) + " '" + name + "'");
}

// Strides of the two innermost dimensions of one array.
struct Steps {
  int64_t row, step;
};

template <int Arrays>
Steps steps(const Loop<Arrays>& loop, int array) {
  const int last = loop.rank - 1;
  return {last < 1 ? 0 : loop.strides[last - 1][array], last < 0 ? 1 : loop.strides[last][array]};
}

// Calls body(offsets, rows, columns) for tiles of all operands.
template <int Arrays, class Body>
void map(const Loop<Arrays>& loop, int64_t work, const Body& body) {
  const int last = loop.rank - 1;
  if (loop.count(0, loop.rank) == 0) return;
  if (last >= 0 && loop.strides[last][0] != 1)
    throw std::invalid_argument("the result must be dense along one dimension");
  const int64_t width = last < 0 ? 1 : std::max<int64_t>(loop.shape[last], 1);
  parallel_tiles(loop, std::max<int64_t>(1, kTile / width), kTile, threads_for(work), body);
}

// About how many multiply-adds a function costs.
int64_t cost(Unary op) {
  switch (op) {
    case Unary::exp:
    case Unary::log:
    case Unary::log1p:
    case Unary::softplus:
    case Unary::softplus_slope:
      return 8;
    case Unary::sin:
    case Unary::cos:
    case Unary::erf:
      return 16;
    default:
      return 1;
  }
}

template <class T>
bool compared(Comparison op, T a, T b) {
  switch (op) {
    case Comparison::eq:
      return a == b;
    case Comparison::ne:
      return a != b;
    case Comparison::lt:
      return a < b;
    case Comparison::le:
      return a <= b;
    case Comparison::gt:
      return a > b;
    case Comparison::ge:
      return a >= b;
  }
  return false;
}

template <class T>
void compare_whole(Comparison op, const Tensor& a, const Tensor& b, const Tensor& dst) {
  const Loop<3> loop = loop_over<3>({&dst, &a, &b});
  const Steps to = steps(loop, 0), x = steps(loop, 1), y = steps(loop, 2);
  map(loop, dst.count(), [=](const Offsets<3>& at, int64_t rows, int64_t columns) noexcept {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        static_cast<bool*>(dst.data)[at[0] + r * to.row + c] =
            compared(op, static_cast<const T*>(a.data)[at[1] + r * x.row + c * x.step],
                     static_cast<const T*>(b.data)[at[2] + r * y.row + c * y.step]);
  });
}

template <class T>
void choose(const Tensor& condition, const Tensor& a, const Tensor& b, const Tensor& dst) {
  const Loop<4> loop = loop_over<4>({&dst, &condition, &a, &b});
  const Steps to = steps(loop, 0), which = steps(loop, 1), x = steps(loop, 2), y = steps(loop, 3);
  const auto* bools = static_cast<const std::uint8_t*>(condition.data);
  map(loop, dst.count(), [=](const Offsets<4>& at, int64_t rows, int64_t columns) noexcept {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        static_cast<T*>(dst.data)[at[0] + r * to.row + c] =
            bools[at[1] + r * which.row + c * which.step] != 0
                ? static_cast<const T*>(a.data)[at[2] + r * x.row + c * x.step]
                : static_cast<const T*>(b.data)[at[3] + r * y.row + c * y.step];
  });
}

}  // namespace

Unary unary_from_name(const std::string& name) {
  static constexpr std::array<const char*, 21> kNames{
      "neg", "abs", "sign",  "square", "sqrt",  "rsqrt", "reciprocal", "exp",       "log",      "log1p",         "sin",
      "cos", "erf", "floor", "ceil",   "round", "clamp", "affine",     "threshold", "softplus", "softplus_slope"};
  return from_name<Unary>(kNames, name, "function");
}

Binary binary_from_name(const std::string& name) {
  static constexpr std::array<const char*, 8> kNames{"add", "sub", "mul", "div", "pow", "maximum", "minimum", "prelu"};
  return from_name<Binary>(kNames, name, "function");
}

Comparison comparison_from_name(const std::string& name) {
  static constexpr std::array<const char*, 6> kNames{"eq", "ne", "lt", "le", "gt", "ge"};
  return from_name<Comparison>(kNames, name, "comparison");
}

void broadcast_shapes(const Tensor& a, const Tensor& b, const std::string& op, Tensor& result) {
  const auto size = [](const Tensor& t, int from_end) {
    return from_end < t.rank ? t.shape[t.rank - 1 - from_end] : 1;
  };
  result.rank = std::max(a.rank, b.rank);
  int64_t count = 1;
  for (int i = 0; i < result.rank; ++i) {
    const int64_t first = size(a, i), second = size(b, i);
    if (first != second && first != 1 && second != 1)
      throw std::invalid_argument(op + ": shapes " + to_string(a.shape.data(), a.rank) + " and " +
                                  to_string(b.shape.data(), b.rank) + " do not broadcast");
    result.shape[result.rank - 1 - i] = first == 1 ? second : first;
    count = checked_mul(count, first == 1 ? second : first);
  }
}

Tensor broadcast_to(const Tensor& a, const Tensor& like) {
  Tensor view = a;
  view.rank = like.rank;
  view.shape = like.shape;
  for (int i = 0; i < like.rank; ++i) {
    const int from = i - (like.rank - a.rank);
    view.strides[i] = from < 0 || a.shape[from] == 1 ? 0 : a.strides[from];
  }
  return view;
}

void run_unary(Unary op, const Tensor& src, float first, float second, const Tensor& dst) {
  const Loop<2> loop = loop_over<2>({&dst, &src});
  const Steps to = steps(loop, 0), x = steps(loop, 1);
  const auto kernel = active_table().unary;
  map(loop, dst.count() * cost(op), [=](const Offsets<2>& at, int64_t rows, int64_t columns) noexcept {
    kernel({op, first, second, {src.floats() + at[1], x.row, x.step}, rows, columns, dst.floats() + at[0], to.row});
  });
}

void run_binary(Binary op, const Tensor& a, const Tensor& b, const Tensor& dst) {
  constexpr int64_t kPower = 16;
  const Loop<3> loop = loop_over<3>({&dst, &a, &b});
  const Steps to = steps(loop, 0), x = steps(loop, 1), y = steps(loop, 2);
  const auto kernel = active_table().binary;
  map(loop, dst.count() * (op == Binary::pow ? kPower : 1),
      [=](const Offsets<3>& at, int64_t rows, int64_t columns) noexcept {
        kernel({op,
                {a.floats() + at[1], x.row, x.step},
                {b.floats() + at[2], y.row, y.step},
                rows,
                columns,
                dst.floats() + at[0],
                to.row});
      });
}

void run_comparison(Comparison op, const Tensor& a, const Tensor& b, const Tensor& dst) {
  if (a.dtype != b.dtype || dst.dtype != DType::boolean)
    throw std::invalid_argument("a comparison takes two arrays of one type and gives bools");
  if (a.dtype == DType::i64) return compare_whole<int64_t>(op, a, b, dst);
  if (a.dtype == DType::boolean) return compare_whole<bool>(op, a, b, dst);
  const Loop<3> loop = loop_over<3>({&dst, &a, &b});
  const Steps to = steps(loop, 0), x = steps(loop, 1), y = steps(loop, 2);
  const auto kernel = active_table().compare;
  map(loop, dst.count(), [=](const Offsets<3>& at, int64_t rows, int64_t columns) noexcept {
    kernel({op,
            {a.floats() + at[1], x.row, x.step},
            {b.floats() + at[2], y.row, y.step},
            rows,
            columns,
            static_cast<std::uint8_t*>(dst.data) + at[0],
            to.row});
  });
}

void run_where(const Tensor& condition, const Tensor& a, const Tensor& b, const Tensor& dst) {
  if (condition.dtype != DType::boolean || a.dtype != b.dtype || a.dtype != dst.dtype)
    throw std::invalid_argument("where takes bools and two arrays of one type");
  if (a.dtype == DType::i64) return choose<int64_t>(condition, a, b, dst);
  if (a.dtype == DType::boolean) return choose<std::uint8_t>(condition, a, b, dst);
  const Loop<4> loop = loop_over<4>({&dst, &condition, &a, &b});
  const Steps to = steps(loop, 0), which = steps(loop, 1), x = steps(loop, 2), y = steps(loop, 3);
  const auto kernel = active_table().where;
  map(loop, dst.count(), [=](const Offsets<4>& at, int64_t rows, int64_t columns) noexcept {
    kernel({static_cast<const std::uint8_t*>(condition.data) + at[1],
            which.row,
            which.step,
            {a.floats() + at[2], x.row, x.step},
            {b.floats() + at[3], y.row, y.step},
            rows,
            columns,
            dst.floats() + at[0],
            to.row});
  });
}

}  // namespace convlane
