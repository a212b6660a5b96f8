// Steps of element-wise operations on operands of one layout, and of scaling and softmax over channels.
#include "ops/elementwise.h"

#include "ops/activation.h"
#include "plan/step.h"

namespace convlane {
namespace {

Step prepare_add(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(2, 2), *a = &at->inputs[0], *b = &at->inputs[1];
  at->check_dense(*dst, "output");
  at->check_dense(*a, "input", dst);
  at->check_dense(*b, "other", dst);
  const int64_t count = dst->tensor.count();
  const Activation activation = at->activation();
  const float slope = at->slope();
  return {
      [=](const PlanRun& run) { run_add(run.floats(*a), run.floats(*b), run.floats(*dst), count, activation, slope); }};
}

Step prepare_multiply(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(2, 2), *a = &at->inputs[0], *b = &at->inputs[1];
  at->check_dense(*dst, "output");
  at->check_dense(*a, "input", dst);
  at->check_dense(*b, "other", dst);
  const int64_t count = dst->tensor.count();
  return {[=](const PlanRun& run) { run_multiply(run.floats(*a), run.floats(*b), run.floats(*dst), count); }};
}

// Every channel of the images times its factor; the factors are (N, C, 1, 1), or (1, C, 1, 1) for all images.
Step prepare_scale(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(2, 2), *src = &at->inputs[0], *factors = &at->inputs[1];
  at->check_dense_image(*dst, "output");
  at->check_dense(*src, "input", dst);
  at->check_dense(*factors, "scale");
  const int64_t channels = src->tensor.shape[1], images = factors->tensor.shape[0];
  at->check((images == 1 || images == src->tensor.shape[0]) && factors->tensor.count() == images * channels,
            "scale must have one factor for each channel");
  const int64_t stride = images == 1 ? 0 : channels;
  return {[=](const PlanRun& run) { run_scale(run.image(*src), run.floats(*factors), stride, run.floats(*dst)); }};
}

Step prepare_activation(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  at->check_dense(*dst, "output");
  at->check_dense(*src, "input", dst);
  const int64_t count = dst->tensor.count();
  const Activation activation = at->activation();
  const float slope = at->slope();
  return {[=](const PlanRun& run) { run_activation(run.floats(*src), run.floats(*dst), count, activation, slope); }};
}

// Over dimension 1, whose elements are adjacent. Attribute: log.
Step prepare_softmax(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const ChannelRows size = at->channel_rows(*src, *dst);
  const bool log = at->get<bool>("log");
  return {[=](const PlanRun& run) { run_softmax(run.floats(*src), run.floats(*dst), size.rows, size.channels, log); }};
}

const RegisterStep add("add", prepare_add);
const RegisterStep multiply("multiply", prepare_multiply);
const RegisterStep scale("scale", prepare_scale);
const RegisterStep activation("activation", prepare_activation);
const RegisterStep softmax("softmax", prepare_softmax);

}  // namespace
}  // namespace convlane
