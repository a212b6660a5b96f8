// Steps of channel interleaving and pixel shuffles.
#include "ops/shape.h"

#include <algorithm>

#include "plan/step.h"

namespace convlane {
namespace {

// Interleaves the channels of images of one shape, which may be slices of larger images' channels.
Step prepare_interleave(std::shared_ptr<const StepArguments> at) {
  const StepOperand* dst = &at->output(1, at->inputs.size());
  at->check_dense_image(*dst, "output");
  Shape4 shape;
  std::copy_n(dst->tensor.shape.begin(), 4, shape.begin());
  const auto count = static_cast<int64_t>(at->inputs.size());
  at->check(shape[1] % count == 0, "the output has another number of channels");
  shape[1] /= count;
  for (const StepOperand& input : at->inputs) {
    at->check(!input.any_layout(), "the inputs must be in the arena");
    at->check_shape(input, "input", shape);
    at->pixel_stride(input, "input");
  }
  const auto bytes = static_cast<int64_t>(sizeof(ImageView)) * count;
  return {[=](const PlanRun& run) {
            auto* images = static_cast<ImageView*>(run.scratch);
            for (int64_t i = 0; i < count; ++i) images[i] = run.image(at->inputs[static_cast<std::size_t>(i)]);
            run_interleave(images, count, run.floats(*dst));
          },
          bytes};
}

// Images of many channels to images of few, or back; attribute: factor.
template <class Run>
Step prepare_shuffled(const StepArguments& at, const StepOperand& many, const StepOperand& few, const Run& run_part) {
  Shuffle shuffle{{}, at.get<int64_t>("factor")};
  at.check_dense_image(many, "the image of many channels");
  at.check_dense_image(few, "the image of few channels");
  std::copy_n(many.tensor.shape.begin(), 4, shuffle.many.begin());
  check_shuffle(shuffle);
  at.check_shape(few, "the image of few channels", shuffle.few());
  const StepOperand *src = &at.inputs[0], *dst = &at.outputs[0];
  at.check(!src->any_layout(), "the input must be in the arena");
  const int threads = at.threads;
  return {[=](const PlanRun& run) {
            run_part(shuffle, run.floats(*src), run.floats(*dst), static_cast<float*>(run.scratch), threads);
          },
          shuffle_scratch(shuffle, threads) * static_cast<int64_t>(sizeof(float))};
}

Step prepare_pixel_shuffle(std::shared_ptr<const StepArguments> at) {
  const StepOperand& few = at->output(1, 1);
  return prepare_shuffled(*at, at->inputs[0], few, run_pixel_shuffle);
}

Step prepare_pixel_unshuffle(std::shared_ptr<const StepArguments> at) {
  const StepOperand& many = at->output(1, 1);
  return prepare_shuffled(*at, many, at->inputs[0], run_pixel_unshuffle);
}

const RegisterStep pixel_shuffle("pixel_shuffle", prepare_pixel_shuffle);
const RegisterStep pixel_unshuffle("pixel_unshuffle", prepare_pixel_unshuffle);
const RegisterStep interleave("interleave", prepare_interleave);

}  // namespace
}  // namespace convlane
