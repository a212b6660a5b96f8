// Channels in turn.
#include "ops/shape.h"

#include <algorithm>

#include "plan/step.h"

namespace convlane {
namespace {

// The channels of images of one shape in turn; they may be channels of larger images.
Step prepare_interleave(std::shared_ptr<const StepArguments> at) {
  const StepOperand* dst = &at->output(1, at->inputs.size());
  at->check_dense_image(*dst, "output");
  Shape4 shape;
  std::copy_n(dst->tensor.shape.begin(), 4, shape.begin());
  const auto count = static_cast<int64_t>(at->inputs.size());
  at->check(shape[1] % count == 0, "the output has another number of channels");
  shape[1] /= count;
  for (const StepOperand& input : at->inputs) {
    at->check(!input.any_layout(), "the inputs must lie in the arena");
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

const RegisterStep interleave("interleave", prepare_interleave);

}  // namespace
}  // namespace convlane
