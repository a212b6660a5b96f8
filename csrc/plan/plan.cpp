#include "plan/plan.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "ops/activation.h"
#include "ops/conv2d_pool.h"
#include "ops/depthwise_block.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/shape.h"
#include "runtime/threads.h"

namespace convlane {
namespace {

Epilogue epilogue_of(const std::vector<float>& bias, PlanActivation activation) {
  Epilogue epilogue;
  epilogue.bias = bias.empty() ? nullptr : bias.data();
  epilogue.activation = activation.kind;
  epilogue.slope = activation.slope;
  return epilogue;
}

}  // namespace

Plan::Plan(const Shape4& input, std::vector<std::vector<int64_t>> outputs, int64_t arena, int64_t at_once)
    : input_(input), outputs_(std::move(outputs)), arena_(arena), at_once_(at_once) {
  if (at_once < 1) throw std::invalid_argument("plan: at least one image must be run at once");
}

void Plan::conv2d(Place src, const Shape4& shape, Target dst, std::shared_ptr<PackedWeight> weight,
                  std::vector<float> bias, const Window& window, const std::string& algorithm,
                  PlanActivation activation, std::optional<Place> residual, const std::optional<Pool2dDesc>& pool) {
  const Conv2dDesc one = describe_conv2d(shape, weight->shape(), window, weight->groups());
  if (!bias.empty() && static_cast<int64_t>(bias.size()) != one.o)
    throw std::invalid_argument("plan: the bias does not fit");
  const Conv2dAlgorithm* chosen = &choose_conv2d(one, algorithm, weight->layout());
  if (pool) check_conv2d_pool(one, *pool);
  if (pool && residual) throw std::invalid_argument("plan: a convolution that is pooled has no residual");
  steps_.push_back([=, weight = std::move(weight), bias = std::move(bias)](const PlanRun& run) {
    Conv2dDesc desc = one;
    desc.n = run.n;
    Conv2dArgs args{};
    args.src = run.image(src, shape);
    args.weight = weight.get();
    args.epilogue = epilogue_of(bias, activation);
    if (residual) {
      args.epilogue.residual = run.at(*residual);
      args.epilogue.residual_stride = desc.o;
    }
    args.dst = run.at(dst);
    args.dst_stride = dst.stride(desc.o);
    args.threads = run.threads;
    if (!pool) return run_conv2d(*chosen, desc, args);
    Pool2dDesc pooled = *pool;
    pooled.input[0] = run.n;
    with_scratch(
        [&](Scratch& scratch) {
          reserve_conv2d_pool(*chosen, desc, args, pooled, !args.src.is_channels_last(), scratch);
        },
        [&](Scratch& scratch) { run_conv2d_pool(*chosen, desc, args, pooled, scratch); });
  });
}

void Plan::depthwise_block(Target src, const Shape4& shape, Place dst, Part expand, Part depthwise,
                           const Window& window, Part squeeze, Part excite, Part project,
                           std::optional<Place> residual) {
  for (const Part* part : {&expand, &depthwise, &squeeze, &excite, &project})
    if (!part->bias.empty() && (!part->weight || static_cast<int64_t>(part->bias.size()) != part->weight->shape()[0]))
      throw std::invalid_argument("plan: the bias does not fit");
  Shape4 hidden = shape;
  if (expand.weight) hidden[1] = expand.weight->shape()[0];
  DepthwiseBlock one{};
  one.src_stride = src.stride(shape[1]);
  one.expand = expand.weight.get();
  one.depthwise = describe_conv2d(hidden, depthwise.weight->shape(), window, depthwise.weight->groups());
  one.depthwise_weight = depthwise.weight.get();
  one.squeeze = squeeze.weight.get();
  one.excite = excite.weight.get();
  one.project = project.weight.get();
  check_depthwise_block(one);
  steps_.push_back([=](const PlanRun& run) {
    DepthwiseBlock block = one;
    block.depthwise.n = run.n;
    block.expand_epilogue = epilogue_of(expand.bias, expand.activation);
    block.depthwise_epilogue = epilogue_of(depthwise.bias, depthwise.activation);
    block.squeeze_epilogue = epilogue_of(squeeze.bias, squeeze.activation);
    block.excite_epilogue = epilogue_of(excite.bias, excite.activation);
    block.project_epilogue = epilogue_of(project.bias, project.activation);
    if (residual) {
      block.project_epilogue.residual = run.at(*residual);
      block.project_epilogue.residual_stride = project.weight->shape()[0];
    }
    Scratch scratch(run.scratch);
    run_depthwise_block(block, run.at(src), run.at(dst), run.threads, scratch);
  });
  scratch_.push_back([one](int64_t n, int threads) {
    DepthwiseBlock block = one;
    block.depthwise.n = n;
    Scratch counted;
    reserve_depthwise_block(block, threads, counted);
    return counted.bytes() / static_cast<int64_t>(sizeof(float));
  });
}

void Plan::pool2d(Place src, const Pool2dDesc& desc, Target dst) {
  steps_.push_back([=](const PlanRun& run) {
    Pool2dDesc batch = desc;
    batch.input[0] = run.n;
    run_pool2d(batch, run.image(src, desc.input), run.at(dst), dst.stride(desc.input[1]), nullptr);
  });
}

void Plan::linear(Place src, Place dst, std::shared_ptr<PackedWeight> weight, std::vector<float> bias,
                  PlanActivation activation) {
  if (!bias.empty() && static_cast<int64_t>(bias.size()) != weight->shape()[0])
    throw std::invalid_argument("plan: the bias does not fit");
  steps_.push_back([=, weight = std::move(weight), bias = std::move(bias)](const PlanRun& run) {
    const LinearArgs args{run.at(src), run.n,      weight->shape()[1], weight.get(), epilogue_of(bias, activation),
                          run.at(dst), run.threads};
    with_scratch([&](Scratch& scratch) { reserve_linear(args, scratch); },
                 [&](Scratch& scratch) { run_linear(args, scratch); });
  });
}

void Plan::add(Place a, Place b, Place dst, int64_t count, PlanActivation activation) {
  steps_.push_back([=](const PlanRun& run) {
    run_add(run.at(a), run.at(b), run.at(dst), count * run.n, activation.kind, activation.slope);
  });
}

void Plan::multiply(Place a, Place b, Place dst, int64_t count) {
  steps_.push_back([=](const PlanRun& run) { run_multiply(run.at(a), run.at(b), run.at(dst), count * run.n); });
}

void Plan::scale(Place src, const Shape4& shape, Place factors, Place dst) {
  steps_.push_back(
      [=](const PlanRun& run) { run_scale(run.image(src, shape), run.at(factors), shape[1], run.at(dst)); });
}

void Plan::activation(Place src, Place dst, int64_t count, PlanActivation activation) {
  steps_.push_back([=](const PlanRun& run) {
    run_activation(run.at(src), run.at(dst), count * run.n, activation.kind, activation.slope);
  });
}

void Plan::softmax(Place src, Place dst, int64_t rows, int64_t channels, bool log) {
  steps_.push_back([=](const PlanRun& run) { run_softmax(run.at(src), run.at(dst), rows * run.n, channels, log); });
}

void Plan::batch_norm(Place src, Place dst, int64_t pixels, std::vector<float> mean, std::vector<float> variance,
                      std::vector<float> weight, std::vector<float> bias, double eps) {
  const auto channels = mean.size();
  for (const auto* values : {&variance, &weight, &bias})
    if (!values->empty() && values->size() != channels) throw std::invalid_argument("plan: the statistics do not fit");
  steps_.push_back([=](const PlanRun& run) {
    const BatchNorm norm(static_cast<int64_t>(channels), mean.data(), variance.data(),
                         weight.empty() ? nullptr : weight.data(), bias.empty() ? nullptr : bias.data(), eps);
    norm.run(run.at(src), pixels * run.n, run.at(dst));
  });
}

void Plan::layer_norm(Place src, Place dst, int64_t pixels, int64_t channels, std::vector<float> weight,
                      std::vector<float> bias, float eps) {
  for (const auto* values : {&weight, &bias})
    if (!values->empty() && static_cast<int64_t>(values->size()) != channels)
      throw std::invalid_argument("plan: the weight of layer_norm does not fit");
  steps_.push_back([=, weight = std::move(weight), bias = std::move(bias)](const PlanRun& run) {
    const LayerNorm norm(channels, weight.empty() ? nullptr : weight.data(), bias.empty() ? nullptr : bias.data(), eps);
    norm.run(run.at(src), pixels * run.n, run.at(dst));
  });
}

void Plan::local_response_norm(Place src, Place dst, int64_t pixels, int64_t channels, int64_t size, float alpha,
                               float beta, float k) {
  if (size < 1) throw std::invalid_argument("local_response_norm: size must be at least 1");
  steps_.push_back([=](const PlanRun& run) {
    const LocalResponseArgs args = describe_local_response(channels, size, alpha, beta, k);
    with_scratch([&](Scratch& scratch) { reserve_local_response(args, pixels * run.n, run.threads, scratch); },
                 [&](Scratch& scratch) {
                   run_local_response(args, run.at(src), pixels * run.n, run.at(dst), run.threads, scratch);
                 });
  });
}

void Plan::copy(Place src, const Shape4& shape, Target dst) { concat({{{src}, shape, dst}}); }

void Plan::slice(Target src, const Shape4& shape, Place dst) { concat({{src, shape, {dst}}}); }

void Plan::interleave(std::vector<Target> srcs, const Shape4& shape, Place dst) {
  steps_.push_back([=, srcs = std::move(srcs)](const PlanRun& run) {
    std::vector<ImageView> images;
    for (const Target& src : srcs) images.push_back(run.image(src, shape));
    run_interleave(images, run.at(dst));
  });
}

void Plan::concat(std::vector<Copy> copies) {
  steps_.push_back([copies = std::move(copies)](const PlanRun& run) {
    for (const Copy& c : copies) {
      const int64_t pixel = c.dst.stride(c.shape[1]), row = c.shape[3] * pixel;
      const ImageView src = c.src.channels != 0 ? run.image(c.src, c.shape) : run.image(c.src.place, c.shape);
      copy_image(src, run.at(c.dst), {c.shape[2] * row, 1, row, pixel});
    }
  });
}

void Plan::flatten(Place src, const Shape4& shape, Place dst) {
  steps_.push_back([=](const PlanRun& run) { copy_to_nchw(run.image(src, shape), run.at(dst)); });
}

void Plan::run(const ImageView& input, const std::vector<float*>& outputs) const {
  run_parts(input, outputs, [this](const PlanRun& part) {
    for (const Step& step : steps_) step(part);
  });
}

std::vector<double> Plan::profile(const ImageView& input, const std::vector<float*>& outputs) const {
  std::vector<double> seconds(steps_.size());
  run_parts(input, outputs, [&](const PlanRun& part) {
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      const auto start = std::chrono::steady_clock::now();
      steps_[i](part);
      seconds[i] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
  });
  return seconds;
}

void Plan::run_parts(const ImageView& input, const std::vector<float*>& outputs,
                     const std::function<void(const PlanRun&)>& run) const {
  const int64_t n = input.shape[0];
  if (n == 0) return;
  const int64_t most = std::min(n, at_once_);
  const int threads = num_threads();
  const int64_t floats = std::max(memory(most, threads), memory(n % most, threads));
  std::vector<float*> at = outputs;
  AlignedArray<float> arena = take_arena(floats);
  for (int64_t first = 0; first < n; first += most) {
    ImageView images = input;
    images.data += first * input.strides[0];
    images.shape[0] = std::min(most, n - first);
    run({images.shape[0], images, arena.get(), at.data(), arena.get() + arena_ * most, threads});
    for (std::size_t i = 0; i < at.size(); ++i) {
      int64_t floats_out = images.shape[0];
      for (int64_t size : outputs_[i]) floats_out *= size;
      at[i] += floats_out;
    }
  }
  return_arena(std::move(arena), floats);
}

int64_t Plan::memory(int64_t n, int threads) const {
  int64_t scratch = 0;
  for (const auto& step : scratch_) scratch = std::max(scratch, step(n, threads));
  return checked_add(checked_mul(arena_, n), scratch);
}

AlignedArray<float> Plan::take_arena(int64_t floats) const {
  // try_lock, here and below: a child of fork() may find the lock held by a thread that it does not have.
  if (const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock); lock) {
    for (Spare& spare : spare_) {
      if (spare.floats != floats) continue;
      AlignedArray<float> memory = std::move(spare.memory);
      spare = std::move(spare_.back());
      spare_.pop_back();
      return memory;
    }
    spare_.clear();  // of another batch size
  }
  return allocate_aligned<float>(floats);
}

void Plan::return_arena(AlignedArray<float> memory, int64_t floats) const {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (lock) spare_.push_back({std::move(memory), floats});
}

}  // namespace convlane
