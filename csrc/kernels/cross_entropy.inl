// Cross-entropy of rows of logits. Neither probabilities nor their logarithms are stored: the gradient recomputes the
// softmax, which costs less than reading it back from memory.
//
// Rows are short where a map has a class at every pixel. So kLanes rows are transposed at a time into one vector per
// class: no sum runs across the lanes of a vector, and no exponential is computed for a partial vector.
#pragma once

#include "kernels/layout.inl"
#include "kernels/pointwise.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

constexpr int64_t kClassBlock = 64;  // classes transposed at a time, on the stack

struct LogitRows {
  const CrossEntropyArgs& args;
  int64_t first = 0;  // row
  int count = 0;      // number of rows, at most kLanes; lanes beyond them are ignored
  int64_t held = -1;  // the class of the first vector
  float logits[kClassBlock * kLanes] = {};
  float probabilities[kClassBlock * kLanes] = {};
};

// dst[c * kLanes + i] = src[i * stride + c]
CONVLANE_INLINE void to_columns(const float* src, int64_t stride, float* dst, int64_t rows, int64_t columns) {
  int64_t c = 0;
  if (rows == kLanes)
    for (; c + 4 <= columns; c += 4) transpose_tile(src + c, stride, dst + c * kLanes, kLanes);
  transpose_edge(src + c, stride, dst + c * kLanes, kLanes, rows, columns - c);
}

// dst[i * stride + c] = src[c * kLanes + i]
CONVLANE_INLINE void to_rows(const float* src, float* dst, int64_t stride, int64_t rows, int64_t columns) {
  int64_t c = 0;
  if (rows == kLanes)
    for (; c + kLanes <= columns; c += kLanes)
      for (int64_t i = 0; i < kLanes; i += 4)
        transpose_tile(src + c * kLanes + i, kLanes, dst + i * stride + c, stride);
  transpose_edge(src + c * kLanes, kLanes, dst + c, stride, columns - c, rows);
}

// Transposes the classes from c on, if that has not been done; returns how many.
CONVLANE_INLINE int64_t hold(LogitRows& rows, int64_t c) {
  const CrossEntropyArgs& args = rows.args;
  const int64_t columns = args.classes - c < kClassBlock ? args.classes - c : kClassBlock;
  if (rows.held == c) return columns;
  const int64_t at = rows.first * args.classes + c;
  to_columns(args.src + at, args.classes, rows.logits, rows.count, columns);
  if (args.probabilities != nullptr)
    to_columns(args.probabilities + at, args.classes, rows.probabilities, rows.count, columns);
  rows.held = c;
  return columns;
}

CONVLANE_INLINE bool has_target_for_every_class(const CrossEntropyArgs& args) {
  return args.probabilities != nullptr || args.others != 0;
}

// The rows' targets for class c, the i-th that is held, without the extra target of each row's own class.
CONVLANE_INLINE Vec target_of(const LogitRows& rows, int64_t c, int64_t i) {
  const Vec others = broadcast(rows.args.others), weight = broadcast(rows.args.weight[c]);
  if (rows.args.probabilities == nullptr) return mul(weight, others);
  return mul(weight, fma(load(rows.probabilities + i * kLanes), broadcast(rows.args.own), others));
}

CONVLANE_INLINE Vec largest_logits(LogitRows& rows) {
  Vec top = broadcast(-__builtin_inff());
  for (int64_t first = 0; first < rows.args.classes; first += kClassBlock) {
    const int64_t columns = hold(rows, first);
    for (int64_t i = 0; i < columns; ++i) top = max(top, load(rows.logits + i * kLanes));
  }
  return top;
}

// With z = x - top, the sums over the classes of e^z, of the targets and of the targets times z. With `keep`,
// exponentials replace the logits where one block holds all classes.
struct ClassSums {
  Vec power, target, product;
};
CONVLANE_INLINE ClassSums sum_classes(LogitRows& rows, Vec top, bool keep) {
  const bool every = has_target_for_every_class(rows.args);
  ClassSums sums{zero(), zero(), zero()};
  for (int64_t first = 0; first < rows.args.classes; first += kClassBlock) {
    const int64_t columns = hold(rows, first);
    ClassSums part{zero(), zero(), zero()};  // so that long sums stay exact
    for (int64_t i = 0; i < columns; ++i) {
      float* at = rows.logits + i * kLanes;
      const Vec z = sub(load(at), top), e = exp(z);
      part.power = add(part.power, e);
      if (keep) store(at, e);
      if (!every) continue;
      const Vec target = target_of(rows, first + i, i);
      part.target = add(part.target, target);
      part.product = add(part.product, select(equal(target, zero()), zero(), mul(target, z)));  // where z is -inf, too
    }
    sums = {add(sums.power, part.power), add(sums.target, part.target), add(sums.product, part.product)};
  }
  return sums;
}

// The extra target of each row's own class, and its logit where that target is not 0.
struct OwnClass {
  float target[kLanes], logit[kLanes], counts[kLanes];
};
CONVLANE_INLINE OwnClass own_class(const LogitRows& rows) {
  OwnClass own{};
  for (int i = 0; i < rows.count; ++i) {
    const int64_t row = rows.first + i, target = rows.args.targets[row];
    if (target < 0) continue;
    own.counts[i] = 1;
    own.target[i] = rows.args.own * rows.args.weight[target];
    if (own.target[i] != 0) own.logit[i] = rows.args.src[row * rows.args.classes + target];
  }
  return own;
}

// The sum of each row's targets: 0 for rows that do not count.
CONVLANE_INLINE Vec target_sum(Vec target, const OwnClass& own) {
  return select(equal(load(own.counts), zero()), zero(), add(target, load(own.target)));
}

template <class Run>
CONVLANE_INLINE void for_logit_rows(const CrossEntropyArgs& args, const Run& run) {
  LogitRows rows{args};
  for (rows.first = 0; rows.first < args.rows; rows.first += kLanes) {
    rows.count = args.rows - rows.first < kLanes ? static_cast<int>(args.rows - rows.first) : kLanes;
    rows.held = -1;
    run(rows);
  }
}

// The sum of targets times the logarithm of the sum of e^z, minus the sum of targets times z: terms of one sign.
void cross_entropy(const CrossEntropyArgs& args) {
  for_logit_rows(args, [&](LogitRows& rows) {
    const Vec top = largest_logits(rows);
    auto [power, target, product] = sum_classes(rows, top, false);
    if (args.targets != nullptr) {
      const OwnClass own = own_class(rows);
      const Vec beyond = load(own.target), z = sub(load(own.logit), top);
      product = add(product, select(equal(beyond, zero()), zero(), mul(beyond, z)));
      target = target_sum(target, own);
    }
    const Vec loss = select(equal(target, zero()), zero(), sub(mul(target, convlane::log(power)), product));
    if (rows.count == kLanes)
      store(args.dst + rows.first, loss);
    else
      store(args.dst + rows.first, loss, rows.count);
  });
}

// (sum of targets * softmax - target) * gradient
void cross_entropy_gradient(const CrossEntropyArgs& args) {
  const bool every = has_target_for_every_class(args), keep = args.classes <= kClassBlock;
  for_logit_rows(args, [&](LogitRows& rows) {
    const Vec top = largest_logits(rows);
    const ClassSums sums = sum_classes(rows, top, keep);
    Vec target = sums.target;
    OwnClass own{};
    if (args.targets != nullptr) {
      own = own_class(rows);
      target = target_sum(target, own);
    }
    float behind[kLanes] = {};
    for (int i = 0; i < rows.count; ++i) behind[i] = args.gradient[(rows.first + i) * args.gradient_step];
    const Vec gradient = load(behind), factor = div(mul(gradient, target), sums.power);
    const Mask idle = equal(target, zero());
    for (int64_t first = 0; first < args.classes; first += kClassBlock) {
      const int64_t columns = hold(rows, first);
      for (int64_t i = 0; i < columns; ++i) {
        float* at = rows.logits + i * kLanes;
        const Vec found = mul(keep ? load(at) : exp(sub(load(at), top)), factor);
        store(at, select(idle, zero(), every ? fnma(target_of(rows, first + i, i), gradient, found) : found));
      }
      for (int i = 0; args.targets != nullptr && i < rows.count; ++i) {
        const int64_t at = args.targets[rows.first + i] - first;
        if (at >= 0 && at < columns) rows.logits[at * kLanes + i] -= behind[i] * own.target[i];
      }
      to_rows(rows.logits, args.dst + rows.first * args.classes + first, args.classes, rows.count, columns);
      rows.held = -1;
    }
  });
}

}  // namespace
}  // namespace convlane
