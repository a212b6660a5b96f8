// Steps of pooling.
#include "plan/step.h"

namespace convlane {
namespace {

Step prepare_pool2d(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const auto desc = at->get<Pool2dDesc>("geometry");
  at->check_shape(*src, "input", desc.input);
  at->check_shape(*dst, "output", desc.shape());
  at->check_dense_image(*src, "input");
  const int64_t stride = at->pixel_stride(*dst, "output");
  Scratch counted;
  if (src->any_layout()) counted.take<float>(src->tensor.count());
  return {[=](const PlanRun& run) {
            ImageView image = run.image(*src);
            if (!image.is_channels_last()) {
              float* copy = Scratch(run.scratch).take<float>(image.count());
              copy_to_channels_last(image, copy);
              image = channels_last_view(copy, image.shape);
            }
            run_pool2d(desc, image, run.floats(*dst), stride, nullptr);
          },
          counted.bytes()};
}

const RegisterStep pool2d("pool2d", prepare_pool2d);

}  // namespace
}  // namespace convlane
