// Optimiser steps: parameters, gradients and state are read once and written once.
#pragma once

#include "kernels/elementwise.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

// Calls f(parameter, gradient, first, second) on vectors; f changes the two states in place and returns the parameter.
template <class F>
CONVLANE_INLINE void update_all(const UpdateArgs& a, F f) {
  const Vec factor = broadcast(a.gradient_factor), decay = broadcast(a.weight_decay);
  const auto step = [&](int64_t i, auto... lanes) {
    const Vec before = load(a.src + i, lanes...);
    const Vec gradient = fma(before, decay, mul(load(a.gradient + i, lanes...), factor));
    Vec first = a.first ? load(a.first + i, lanes...) : zero();
    Vec second = a.second ? load(a.second + i, lanes...) : zero();
    const Vec after = f(before, gradient, first, second);
    if (a.first) store(a.first + i, first, lanes...);
    if (a.second) store(a.second + i, second, lanes...);
    store(a.dst + i, after, lanes...);
  };
  int64_t i = 0;
  for (; i + kLanes <= a.count; i += kLanes) step(i);
  if (i < a.count) step(i, static_cast<int>(a.count - i));
}

void update(Rule rule, const UpdateArgs& a) {
  const Vec lr = broadcast(a.lr), momentum = broadcast(a.momentum), eps = broadcast(a.eps);
  const Vec average = broadcast(a.average), rest = broadcast(1 - a.average), fresh = broadcast(a.fresh);
  const Vec correction = broadcast(a.correction), shrink = broadcast(a.shrink);
  switch (rule) {
    case Rule::sgd:
      return update_all(a, [=](Vec p, Vec g, Vec& velocity, Vec&) {
        velocity = fma(velocity, momentum, g);
        return fnma(lr, velocity, p);
      });
    case Rule::nesterov:
      return update_all(a, [=](Vec p, Vec g, Vec& velocity, Vec&) {
        velocity = fma(velocity, momentum, g);
        return fnma(lr, fma(velocity, momentum, g), p);
      });
    case Rule::rmsprop:
      return update_all(a, [=](Vec p, Vec g, Vec& velocity, Vec& square) {
        square = fma(square, average, mul(rest, mul(g, g)));
        velocity = fma(velocity, momentum, div(g, add(sqrt(square), eps)));
        return fnma(lr, velocity, p);
      });
    case Rule::adam:
      return update_all(a, [=](Vec p, Vec g, Vec& mean, Vec& square) {
        mean = fma(mean, momentum, mul(fresh, g));
        square = fma(square, average, mul(rest, mul(g, g)));
        return fnma(lr, div(mean, add(mul(sqrt(square), correction), eps)), mul(p, shrink));
      });
  }
}

// In double: float is not precise enough for the sum over a large network.
double sum_of_squares(const float* src, int64_t count) {
  constexpr int64_t kRun = 4096;  // floats summed in float, vector by vector
  double sum = 0;
  for (int64_t begin = 0; begin < count; begin += kRun) {
    const int64_t end = begin + kRun < count ? begin + kRun : count;
    Vec lanes = zero();
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) lanes = fma(load(src + i), load(src + i), lanes);
    if (i < end) {
      const Vec x = load(src + i, static_cast<int>(end - i));
      lanes = fma(x, x, lanes);
    }
    sum += static_cast<double>(sum_lanes(lanes));
  }
  return sum;
}

}  // namespace
}  // namespace convlane
