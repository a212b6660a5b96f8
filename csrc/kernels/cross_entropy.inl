// Cross-entropy of rows of logits. Neither probabilities nor their logarithms are kept: the gradient takes the softmax
// anew, which costs less than reading it back from memory.
#pragma once

#include "kernels/pointwise.inl"
#include "kernels/softmax.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// Calls run(c, x, get, put) for the vectors of a row of logits, whose lanes beyond the end are -inf, so that their
// exponential is 0. Those that `get` loads from other rows are 0.
template <class Run>
CONVLANE_INLINE void for_logits(const float* row, int64_t classes, const Run& run) {
  int64_t c = 0;
  for (; c + kLanes <= classes; c += kLanes)
    run(c, load(row + c), [](const float* p) { return load(p); }, [](float* p, Vec x) { store(p, x); });
  const int tail = static_cast<int>(classes - c);
  if (tail > 0)
    run(
        c, select(lanes_before(tail), load(row + c, tail), broadcast(-__builtin_inff())),
        [=](const float* p) { return load(p, tail); }, [=](float* p, Vec x) { store(p, x, tail); });
}

CONVLANE_INLINE float largest_logit(const float* row, int64_t classes) {
  Vec top = broadcast(-__builtin_inff());
  for_logits(row, classes, [&](int64_t, Vec x, auto, auto) { top = max(top, x); });
  return fold_lanes(top, [](float x, float y) { return x > y ? x : y; });
}

CONVLANE_INLINE float sum_of_lanes(Vec sums) {
  return fold_lanes(sums, [](float x, float y) { return x + y; });
}

// What is wished of the classes from c on, but for what the row's own class is wished beyond the others.
template <class Get>
CONVLANE_INLINE Vec wish_of(const CrossEntropyArgs& args, int64_t row, int64_t c, Get get) {
  const Vec others = broadcast(args.others), weight = get(args.weight + c);
  if (args.probabilities == nullptr) return mul(weight, others);
  return mul(weight, fma(get(args.probabilities + row * args.classes + c), broadcast(args.own), others));
}

// The same of the row's own class: what it is wished beyond the others.
CONVLANE_INLINE float own_wish(const CrossEntropyArgs& args, int64_t row) {
  return args.own * args.weight[args.targets[row]];
}

CONVLANE_INLINE bool counts(const CrossEntropyArgs& args, int64_t row) {
  return args.targets == nullptr || args.targets[row] >= 0;
}

// With z = x - top, minus the sum of wish * (z - log of sum of e^z): sums of terms of one sign, for as many rows at a
// time as there are lanes, so that their logarithms are one vector.
void cross_entropy(const CrossEntropyArgs& args) {
  const bool every = args.probabilities != nullptr || args.others != 0;
  for (int64_t first = 0; first < args.rows; first += kLanes) {
    const int count = args.rows - first < kLanes ? static_cast<int>(args.rows - first) : kLanes;
    float powers[kLanes], wishes[kLanes], products[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      powers[i] = 1;
      wishes[i] = products[i] = 0;
    }
    for (int i = 0; i < count; ++i) {
      const int64_t row = first + i;
      if (!counts(args, row)) continue;
      const float* src = args.src + row * args.classes;
      const float largest = largest_logit(src, args.classes);
      const Vec top = broadcast(largest);
      Vec power = zero(), wish = zero(), product = zero();
      for_logits(src, args.classes, [&](int64_t c, Vec x, auto get, auto) {
        const Vec z = sub(x, top);
        power = add(power, exp(z));
        if (!every) return;
        const Vec part = wish_of(args, row, c, get);
        wish = add(wish, part);
        product = add(product, select(equal(part, zero()), zero(), mul(part, z)));  // 0 times -inf counts nothing
      });
      powers[i] = sum_of_lanes(power);
      if (every) {
        wishes[i] = sum_of_lanes(wish);
        products[i] = sum_of_lanes(product);
      }
      if (args.targets == nullptr) continue;
      const float own = own_wish(args, row);
      wishes[i] += own;
      if (own != 0) products[i] += own * (src[args.targets[row]] - largest);
    }
    const Vec wish = load(wishes);
    const Vec loss = sub(mul(wish, convlane::log(load(powers))), load(products));
    const Vec result = select(equal(wish, zero()), zero(), loss);
    if (count == kLanes)
      store(args.dst + first, result);
    else
      store(args.dst + first, result, count);
  }
}

// (sum of wishes * softmax - wish) * gradient; the exponentials wait in dst for their sum.
void cross_entropy_gradient(const CrossEntropyArgs& args) {
  const bool every = args.probabilities != nullptr || args.others != 0;
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* src = args.src + row * args.classes;
    float* dst = args.dst + row * args.classes;
    float wish = 0, power = 0;
    if (counts(args, row)) {
      const Vec top = broadcast(largest_logit(src, args.classes));
      Vec powers = zero(), wishes = zero();
      for_logits(src, args.classes, [&](int64_t c, Vec x, auto get, auto put) {
        const Vec e = exp(sub(x, top));
        powers = add(powers, e);
        put(dst + c, e);
        if (every) wishes = add(wishes, wish_of(args, row, c, get));
      });
      power = sum_of_lanes(powers);
      if (every) wish = sum_of_lanes(wishes);
      if (args.targets != nullptr) wish += own_wish(args, row);
    }
    if (wish == 0) {
      for_vectors(args.classes, [&](int64_t c, auto, auto put) { put(dst + c, zero()); });
      continue;
    }
    const float behind = args.gradient[row * args.gradient_step];
    const Vec factor = broadcast(behind * wish / power), gradient = broadcast(behind);
    for_vectors(args.classes, [&](int64_t c, auto get, auto put) {
      const Vec found = mul(get(dst + c), factor);
      put(dst + c, every ? fnma(wish_of(args, row, c, get), gradient, found) : found);
    });
    if (args.targets != nullptr) dst[args.targets[row]] -= behind * own_wish(args, row);
  }
}

}  // namespace
}  // namespace convlane
