// Checks, the list of algorithms and the choice among them.
#include "ops/conv2d.h"

#include <algorithm>
#include <stdexcept>

namespace convlane {
namespace {

std::string refuse_nothing(const Conv2dDesc&) { return ""; }
void reserve_nothing(const Conv2dDesc&, const Conv2dArgs&, Scratch&) {}

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("conv2d: " + what); }

bool is_depthwise(int64_t c_per_group, int64_t groups) { return groups > 1 && c_per_group == 1; }

// Made at load: see Fork in runtime/threads.h. Never destroyed: a daemon thread may compute while the process ends.
const std::vector<Conv2dAlgorithm>& algorithms = *new std::vector<Conv2dAlgorithm>{
    {"pointwise", WeightLayout::panels, false, PooledFrom::image, refuse_pointwise, reserve_direct, run_direct},
    {"depthwise", WeightLayout::depthwise, false, PooledFrom::image, refuse_depthwise, reserve_depthwise,
     run_depthwise},
    {"planes", WeightLayout::plain, true, PooledFrom::image, refuse_planes, reserve_planes, run_planes},
    {"narrow", WeightLayout::filters, false, PooledFrom::image, refuse_narrow, reserve_narrow, run_narrow},
    {"grouped", WeightLayout::grouped, false, PooledFrom::image, refuse_grouped, reserve_grouped, run_grouped},
    {"stem", WeightLayout::panels, true, PooledFrom::bands, refuse_stem, reserve_stem, run_stem},
    {"winograd4", WeightLayout::winograd4, false, PooledFrom::tiles, refuse_winograd, reserve_winograd, run_winograd},
    {"winograd2", WeightLayout::winograd2, false, PooledFrom::tiles, refuse_winograd, reserve_winograd, run_winograd},
    {"direct", WeightLayout::panels, false, PooledFrom::image, refuse_nothing, reserve_direct, run_direct},
    {"im2col", WeightLayout::panels, false, PooledFrom::image, refuse_nothing, reserve_im2col, run_im2col},
    {"reference", WeightLayout::plain, true, PooledFrom::image, refuse_nothing, reserve_nothing, run_reference},
};

}  // namespace

const std::vector<Conv2dAlgorithm>& conv2d_algorithms() { return algorithms; }

const Conv2dAlgorithm& find_conv2d_algorithm(const std::string& name) {
  std::string known;
  for (const Conv2dAlgorithm& a : conv2d_algorithms())
    if (name == a.name) return a;
  for (const Conv2dAlgorithm& a : conv2d_algorithms()) known += ", " + std::string(a.name);
  refuse("unknown algorithm '" + name + "'; there are auto" + known);
}

std::string refuse_pointwise(const Conv2dDesc& d) {
  if (d.taps() != 1) return "the kernel is " + to_string(d.window.kernel) + ", not 1x1";
  const Window& w = d.window;
  if (w.top || w.bottom || w.left || w.right) return "the input is padded";
  return "";
}

std::string refuse_depthwise(const Conv2dDesc& d) {
  if (is_depthwise(d.c_per_group(), d.groups)) return "";
  return "groups (" + std::to_string(d.groups) + ") is not the number of input channels (" + std::to_string(d.c) +
         "), or there is only one";
}

void check_channels(const std::string& op, const int64_t* input, const int64_t* weight, int rank, int64_t groups) {
  const auto refuse_here = [&op](const std::string& what) { throw std::invalid_argument(op + ": " + what); };
  const std::string filters = to_string(weight, rank);
  const int64_t c = input[1], o = weight[0], i = weight[1];
  if (groups < 1) refuse_here("groups must be at least 1, got " + std::to_string(groups));
  if (o < 1 || i < 1) refuse_here("weight " + filters + " has no channels");
  if (o % groups != 0)
    refuse_here("the " + std::to_string(o) + " output channels of weight " + filters +
                " cannot be divided into groups=" + std::to_string(groups));
  if (c != checked_mul(i, groups))
    refuse_here("given groups=" + std::to_string(groups) + " and weight of shape " + filters + ", expected input " +
                to_string(input, rank) + " to have " + std::to_string(i * groups) + " channels, but got " +
                std::to_string(c));
}

Conv2dDesc describe_conv2d(const Shape4& input, const Shape4& weight, Window window, int64_t groups) {
  const auto [n, c, h, w] = input;
  const auto [o, i, kh, kw] = weight;
  check_channels("conv2d", input.data(), weight.data(), 4, groups);
  window.kernel = {kh, kw};
  const auto [oh, ow] = window_output("conv2d", window, h, w);
  checked_mul(checked_mul(checked_mul(n > 0 ? n : 1, o), checked_mul(oh, ow)), sizeof(float));
  // A stride longer than the padded input changes nothing more, but algorithms have buffers as long as the stride.
  window.stride[0] = std::min(window.stride[0], h + window.top + window.bottom);
  window.stride[1] = std::min(window.stride[1], w + window.left + window.right);
  return {n, c, h, w, o, oh, ow, groups, window};
}

WeightLayout conv2d_weight_layout(const Shape4& weight, int64_t groups, const std::string& algorithm) {
  if (algorithm != "auto") {
    const WeightLayout layout = find_conv2d_algorithm(algorithm).layout;
    // Groups too small to fill vectors are convolved directly.
    const bool is_short =
        groups < 2 || weight[0] % groups != 0 || groups_in_vector(weight, groups, active_table().lanes) < 2;
    return layout == WeightLayout::grouped && is_short ? WeightLayout::panels : layout;
  }
  return is_depthwise(weight[1], groups) ? WeightLayout::depthwise : WeightLayout::panels;
}

const Conv2dAlgorithm& choose_conv2d(const Conv2dDesc& desc, const std::string& algorithm, WeightLayout layout) {
  if (algorithm == "auto") {
    for (const Conv2dAlgorithm& a : conv2d_algorithms())
      if (a.layout == layout && a.refusal(desc).empty()) return a;
    refuse("no algorithm serves weights packed in this order");
  }
  const Conv2dAlgorithm& chosen = find_conv2d_algorithm(algorithm);
  const std::string refusal = chosen.refusal(desc);
  if (!refusal.empty()) refuse("algorithm '" + algorithm + "' cannot do this: " + refusal);
  const Shape4 weight{desc.o, desc.c_per_group(), desc.kh(), desc.kw()};
  if (conv2d_weight_layout(weight, desc.groups, algorithm) != layout)
    refuse("the weights were packed for another algorithm than '" + algorithm + "'");
  return chosen;
}

std::vector<std::pair<std::string, std::string>> explain_conv2d(const Conv2dDesc& desc, const std::string& algorithm) {
  const std::string name = algorithm == "auto" ? cheapest_conv2d(desc, false) : algorithm;
  const Shape4 weight{desc.o, desc.c_per_group(), desc.kh(), desc.kw()};
  const Conv2dAlgorithm& chosen = choose_conv2d(desc, name, conv2d_weight_layout(weight, desc.groups, name));
  std::vector<std::pair<std::string, std::string>> steps;
  for (const Conv2dAlgorithm& a : conv2d_algorithms()) {
    const std::string refusal = a.refusal(desc);
    if (&a == &chosen) {
      steps.emplace_back(a.name, "");
      break;
    }
    const char* passed_over = algorithm == "auto" ? "it is taken only when asked for" : "another one was asked for";
    steps.emplace_back(a.name, refusal.empty() ? passed_over : refusal);
  }
  return steps;
}

void reserve_conv2d(const Conv2dAlgorithm& algorithm, const Conv2dDesc& desc, const Conv2dArgs& args, bool any_layout,
                    Scratch& scratch) {
  if (any_layout && !algorithm.any_source_layout)
    scratch.take<float>(checked_mul(checked_mul(desc.n, desc.c), checked_mul(desc.h, desc.w)));
  algorithm.reserve(desc, args, scratch);
}

void run_conv2d(const Conv2dAlgorithm& algorithm, const Conv2dDesc& desc, const Conv2dArgs& args, Scratch& scratch) {
  if (desc.pixels() == 0) return;
  Conv2dArgs converted = args;
  if (!algorithm.any_source_layout && !args.src.is_channels_last()) {
    float* copy = scratch.take<float>(args.src.count());
    copy_to_channels_last(args.src, copy);
    converted.src = channels_last_view(copy, args.src.shape);
  }
  algorithm.run(desc, converted, scratch);
}

void run_conv2d(const Conv2dAlgorithm& algorithm, const Conv2dDesc& desc, const Conv2dArgs& args) {
  if (desc.pixels() == 0) return;
  with_scratch([&](Scratch& scratch) { reserve_conv2d(algorithm, desc, args, !args.src.is_channels_last(), scratch); },
               [&](Scratch& scratch) { run_conv2d(algorithm, desc, args, scratch); });
}

}  // namespace convlane
