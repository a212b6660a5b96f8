// A compiled network: a list of steps over one arena, run as a whole without returning to Python.
//
// Places are offsets in floats into the arena for one image; a batch of n scales them all by n, so one plan serves any
// batch; a large one is run in parts. Between steps images are dense channels last. Runs share nothing but the weights,
// so several threads may run one plan at once.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "ops/conv2d.h"
#include "ops/pool2d.h"

namespace convlane {

using Place = int64_t;
constexpr Place kInput = -1, kOutput = -2;  // the arrays of the caller; further outputs are at -3, -4 and so on

// Where an image lies: at a place of its own, or in the channels from `channel` of an image of `channels` (which is how
// concatenation and splitting cost nothing).
struct Target {
  Place place;
  int64_t channel = 0, channels = 0;  // 0: all, the image is dense

  int64_t stride(int64_t own) const { return channels != 0 ? channels : own; }
};

// What a step sees of the run it is part of.
struct PlanRun {
  int64_t n;
  ImageView input;
  float* arena;
  float* const* outputs;
  float* scratch;  // of the step at work, for up to `threads` threads
  int threads;

  float* at(Place place) const { return place <= kOutput ? outputs[kOutput - place] : arena + place * n; }
  float* at(const Target& target) const { return at(target.place) + target.channel; }
  // The image of `shape` (its N replaced) at a place; the input may have any layout.
  ImageView image(Place place, Shape4 shape) const {
    if (place == kInput) return input;
    shape[0] = n;
    return channels_last_view(at(place), shape);
  }
  // Channels of the image at a place; not of the input.
  ImageView image(const Target& source, Shape4 shape) const {
    const int64_t pixel = source.stride(shape[1]);
    return {at(source), {n, shape[1], shape[2], shape[3]}, {shape[2] * shape[3] * pixel, 1, shape[3] * pixel, pixel}};
  }
};

// Names of the activation and the leaky slope as the epilogue takes them.
struct PlanActivation {
  Activation kind = Activation::none;
  float slope = 0;
};

class Plan {
 public:
  // Sizes for one image, those of the outputs without the batch, `arena` in floats. A batch of more images than
  // `at_once` is run in parts.
  Plan(const Shape4& input, std::vector<std::vector<int64_t>> outputs, int64_t arena, int64_t at_once);

  // Each appends a step. Bias and factors are copied; shapes are for one image. With `pool`, dst is the pooled image
  // and there is no residual.
  void conv2d(Place src, const Shape4& shape, Target dst, std::shared_ptr<PackedWeight> weight, std::vector<float> bias,
              const Window& window, const std::string& algorithm, PlanActivation activation,
              std::optional<Place> residual, const std::optional<Pool2dDesc>& pool);
  // One convolution of a depthwise block.
  struct Part {
    std::shared_ptr<PackedWeight> weight;
    std::vector<float> bias;
    PlanActivation activation;
  };
  // Expand (no weight: left out), depthwise, squeeze and excite (left out, or both there), project; `shape` is the
  // block's input, `window` the depthwise convolution's.
  void depthwise_block(Target src, const Shape4& shape, Place dst, Part expand, Part depthwise, const Window& window,
                       Part squeeze, Part excite, Part project, std::optional<Place> residual);
  void pool2d(Place src, const Pool2dDesc& desc, Target dst);
  void linear(Place src, Place dst, std::shared_ptr<PackedWeight> weight, std::vector<float> bias,
              PlanActivation activation);
  void add(Place a, Place b, Place dst, int64_t count, PlanActivation activation);
  void multiply(Place a, Place b, Place dst, int64_t count);
  // Every channel of every image by its factor.
  void scale(Place src, const Shape4& shape, Place factors, Place dst);
  void activation(Place src, Place dst, int64_t count, PlanActivation activation);
  void softmax(Place src, Place dst, int64_t rows, int64_t channels, bool log);
  // With given statistics; weight and bias may be empty.
  void batch_norm(Place src, Place dst, int64_t pixels, std::vector<float> mean, std::vector<float> variance,
                  std::vector<float> weight, std::vector<float> bias, double eps);
  // Of every pixel over its channels; weight and bias may be empty.
  void layer_norm(Place src, Place dst, int64_t pixels, int64_t channels, std::vector<float> weight,
                  std::vector<float> bias, float eps);
  void local_response_norm(Place src, Place dst, int64_t pixels, int64_t channels, int64_t size, float alpha,
                           float beta, float k);
  // Any layout to dense channels last.
  void copy(Place src, const Shape4& shape, Target dst);
  // Channels of an image to a place of their own.
  void slice(Target src, const Shape4& shape, Place dst);
  // The channels of images of one shape in turn.
  void interleave(std::vector<Target> srcs, const Shape4& shape, Place dst);
  // The images of a concatenation that were not written in place.
  struct Copy {
    Target src;
    Shape4 shape;
    Target dst;
  };
  void concat(std::vector<Copy> copies);
  // Any layout to the order N, C, H, W.
  void flatten(Place src, const Shape4& shape, Place dst);

  const Shape4& input_shape() const { return input_; }
  const std::vector<std::vector<int64_t>>& output_shapes() const { return outputs_; }  // without the batch
  int64_t arena() const { return arena_; }
  int64_t steps() const { return static_cast<int64_t>(steps_.size()); }

  // One array for each output.
  void run(const ImageView& input, const std::vector<float*>& outputs) const;
  // The same, with the seconds of each step.
  std::vector<double> profile(const ImageView& input, const std::vector<float*>& outputs) const;

 private:
  using Step = std::function<void(const PlanRun&)>;
  void run_parts(const ImageView& input, const std::vector<float*>& outputs,
                 const std::function<void(const PlanRun&)>& run) const;
  int64_t memory(int64_t n, int threads) const;  // floats of arena and scratch
  AlignedArray<float> take_arena(int64_t floats) const;
  void return_arena(AlignedArray<float> memory, int64_t floats) const;

  Shape4 input_;
  std::vector<std::vector<int64_t>> outputs_;
  int64_t arena_, at_once_;
  std::vector<Step> steps_;
  std::vector<std::function<int64_t(int64_t, int)>> scratch_;  // floats that steps need for n images and threads

  struct Spare {
    AlignedArray<float> memory;
    int64_t floats;
  };
  mutable std::mutex mutex_;
  mutable std::vector<Spare> spare_;  // one per run that was ever at work at the same time
};

}  // namespace convlane
