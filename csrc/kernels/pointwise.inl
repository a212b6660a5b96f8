// Functions of one number or two, comparisons and selections, over operands of any strides.
#pragma once

#include "kernels/activation.inl"
#include "kernels/by_doubles.inl"
#include "kernels/exp_log.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// A row of an operand: vector by vector, or the last, partial vector.
struct DenseRow {
  const float* data;
  CONVLANE_INLINE Vec operator()(int64_t i) const { return load(data + i); }
  CONVLANE_INLINE Vec operator()(int64_t i, int n) const { return load(data + i, n); }
};

struct ConstantRow {
  Vec value;
  CONVLANE_INLINE Vec operator()(int64_t) const { return value; }
  CONVLANE_INLINE Vec operator()(int64_t, int) const { return value; }
};

struct SteppedRow {
  const float* data;
  int64_t step;
  CONVLANE_INLINE Vec operator()(int64_t i) const { return (*this)(i, kLanes); }
  CONVLANE_INLINE Vec operator()(int64_t i, int n) const {
    float lanes[kLanes] = {};
    for (int lane = 0; lane < n; ++lane) lanes[lane] = data[(i + lane) * step];
    return load(lanes);
  }
};

// Calls use(row) with a row of an operand as whichever of the three types it has.
template <class Use>
CONVLANE_INLINE void with_row(const Operand& operand, int64_t row, const Use& use) {
  const float* data = operand.data + row * operand.row;
  if (operand.step == 1) return use(DenseRow{data});
  if (operand.step == 0) return use(ConstantRow{broadcast(*data)});
  use(SteppedRow{data, operand.step});
}

// Calls whole(i) for the vectors of a row, and part(i, n) for the last n numbers that do not fill one.
template <class Whole, class Part>
CONVLANE_INLINE void for_lanes(int64_t count, const Whole& whole, const Part& part) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) whole(i);
  if (i < count) part(i, static_cast<int>(count - i));
}

// From 2^23 on all numbers are whole; adding 2^23 rounds smaller ones to even. The sign of zero stays.
CONVLANE_INLINE Vec round_to_even(Vec x) {
  const Vec size = abs(x), limit = broadcast(0x1p23f);
  const Vec rounded = sub(in_register(add(size, limit)), limit);
  return select(at_most(limit, size), x, bit_or(rounded, sign_of(x)));
}

CONVLANE_INLINE Vec floor(Vec x) {
  const Vec whole = round_to_even(x);
  return select(greater(whole, x), sub(whole, broadcast(1.0f)), whole);
}

CONVLANE_INLINE Vec ceil(Vec x) { return bit_or(abs(floor(sub(broadcast(-0.0f), x))), sign_of(x)); }

// Calls use(f) with the function named by the argument.
template <class Use>
CONVLANE_INLINE void with_unary(const UnaryArgs& args, const Use& use) {
  const Vec first = broadcast(args.first), second = broadcast(args.second), one = broadcast(1.0f);
  switch (args.op) {
    case Unary::neg:
      return use([](Vec x) { return sub(broadcast(-0.0f), x); });
    case Unary::abs:
      return use([](Vec x) { return abs(x); });
    case Unary::sign:
      return use(
          [=](Vec x) { return select(greater(x, zero()), one, select(greater(zero(), x), sub(zero(), one), x)); });
    case Unary::square:
      return use([](Vec x) { return mul(x, x); });
    case Unary::sqrt:
      return use([](Vec x) { return sqrt(x); });
    case Unary::rsqrt:
      return use([=](Vec x) { return div(one, sqrt(x)); });
    case Unary::reciprocal:
      return use([=](Vec x) { return div(one, x); });
    case Unary::exp:
      return use([](Vec x) { return exp(x); });
    case Unary::log:
      return use([](Vec x) { return log(x); });
    case Unary::log1p:
      return use([](Vec x) { return log1p(x); });
    case Unary::sin:
      return use([](Vec x) { return sin(x); });
    case Unary::cos:
      return use([](Vec x) { return cos(x); });
    case Unary::erf:
      return use([](Vec x) { return erf(x); });
    case Unary::floor:
      return use([](Vec x) { return floor(x); });
    case Unary::ceil:
      return use([](Vec x) { return ceil(x); });
    case Unary::round:
      return use([](Vec x) { return round_to_even(x); });
    case Unary::clamp:
      return use([=](Vec x) { return min(second, max(first, x)); });
    case Unary::affine:
      return use([=](Vec x) { return add(in_register(mul(x, first)), second); });
    case Unary::threshold:
      return use([=](Vec x) { return select(at_most(x, first), second, x); });
    case Unary::softplus:
      return use([=](Vec x) {
        const Vec y = mul(x, first);
        return select(greater(y, second), x, div(softplus(y), first));
      });
    case Unary::softplus_slope:
      return use([=](Vec x) {
        const Vec y = mul(x, first);
        return select(greater(y, second), one, sigmoid(y));
      });
  }
}

void unary(const UnaryArgs& args) {
  with_unary(args, [&](auto f) {
    for (int64_t r = 0; r < args.rows; ++r)
      with_row(args.src, r, [&](auto x) {
        float* dst = args.dst + r * args.dst_row;
        for_lanes(
            args.columns, [&](int64_t i) { store(dst + i, f(x(i))); },
            [&](int64_t i, int n) { store(dst + i, f(x(i, n)), n); });
      });
  });
}

template <class Use>
CONVLANE_INLINE void for_pairs(const Operand& a, const Operand& b, int64_t rows, const Use& use) {
  for (int64_t r = 0; r < rows; ++r) with_row(a, r, [&](auto x) { with_row(b, r, [&](auto y) { use(r, x, y); }); });
}

template <class F>
CONVLANE_INLINE void binary_with(const BinaryArgs& args, F f) {
  for_pairs(args.a, args.b, args.rows, [&](int64_t r, auto x, auto y) {
    float* dst = args.dst + r * args.dst_row;
    for_lanes(
        args.columns, [&](int64_t i) { store(dst + i, f(x(i), y(i))); },
        [&](int64_t i, int n) { store(dst + i, f(x(i, n), y(i, n)), n); });
  });
}

// One exponent for all is the usual case, and these are the usual ones.
CONVLANE_INLINE void powers(const BinaryArgs& args) {
  const float exponent = args.b.step == 0 && args.b.row == 0 ? *args.b.data : 0;
  if (exponent == 2) return binary_with(args, [](Vec x, Vec) { return mul(x, x); });
  if (exponent == 3) return binary_with(args, [](Vec x, Vec) { return cube(x); });
  if (exponent == -1) return binary_with(args, [](Vec x, Vec) { return div(broadcast(1.0f), x); });
  binary_with(args, [](Vec x, Vec y) { return power(x, y); });
}

void binary(const BinaryArgs& args) {
  switch (args.op) {
    case Binary::add:
      return binary_with(args, [](Vec x, Vec y) { return add(x, y); });
    case Binary::sub:
      return binary_with(args, [](Vec x, Vec y) { return sub(x, y); });
    case Binary::mul:
      return binary_with(args, [](Vec x, Vec y) { return mul(x, y); });
    case Binary::div:
      return binary_with(args, [](Vec x, Vec y) { return div(x, y); });
    case Binary::maximum:
      return binary_with(args, [](Vec x, Vec y) { return max_or_nan(x, y); });
    case Binary::minimum:
      return binary_with(args, [](Vec x, Vec y) { return min_or_nan(x, y); });
    case Binary::prelu:
      return binary_with(args, [](Vec x, Vec y) { return select(greater(x, zero()), x, mul(x, y)); });
    case Binary::pow:
      return powers(args);
  }
}

template <class F>
CONVLANE_INLINE void compare_with(const ComparisonArgs& args, F f) {
  for_pairs(args.a, args.b, args.rows, [&](int64_t r, auto x, auto y) {
    std::uint8_t* dst = args.dst + r * args.dst_row;
    for_lanes(
        args.columns, [&](int64_t i) { store_bools(dst + i, f(x(i), y(i))); },
        [&](int64_t i, int n) { store_bools(dst + i, f(x(i, n), y(i, n)), n); });
  });
}

void compare(const ComparisonArgs& args) {
  const ComparisonArgs turned{args.op == Comparison::lt ? Comparison::gt : Comparison::le,
                              args.b,
                              args.a,
                              args.rows,
                              args.columns,
                              args.dst,
                              args.dst_row};
  switch (args.op) {
    case Comparison::eq:
      return compare_with(args, [](Vec x, Vec y) { return equal(x, y); });
    case Comparison::ne:
      return compare_with(args, [](Vec x, Vec y) { return inverse(equal(x, y)); });
    case Comparison::gt:
      return compare_with(args, [](Vec x, Vec y) { return greater(x, y); });
    case Comparison::le:
      return compare_with(args, [](Vec x, Vec y) { return at_most(x, y); });
    case Comparison::lt:
    case Comparison::ge:
      return compare(turned);
  }
}

void where(const WhereArgs& args) {
  for_pairs(args.a, args.b, args.rows, [&](int64_t r, auto x, auto y) {
    const std::uint8_t* condition = args.condition + r * args.condition_row;
    float* dst = args.dst + r * args.dst_row;
    if (args.condition_step == 1) {
      for_lanes(
          args.columns, [&](int64_t i) { store(dst + i, select(load_bools(condition + i), x(i), y(i))); },
          [&](int64_t i, int n) { store(dst + i, select(load_bools(condition + i, n), x(i, n), y(i, n)), n); });
      return;
    }
    const auto part = [&](int64_t i, int n) {
      std::uint8_t bools[kLanes] = {};
      for (int lane = 0; lane < n; ++lane) bools[lane] = condition[(i + lane) * args.condition_step];
      store(dst + i, select(load_bools(bools), x(i, n), y(i, n)), n);
    };
    for_lanes(args.columns, [&](int64_t i) { part(i, kLanes); }, part);
  });
}

}  // namespace
}  // namespace convlane
