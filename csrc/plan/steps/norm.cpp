// Steps of normalisations. Rows are pixels: what has one channel after the other in memory.
#include "ops/norm.h"

#include "plan/step.h"

namespace convlane {
namespace {

// Checks that input and output are one after the other channels of pixels; returns how many.
int64_t channels_of(const StepArguments& at, const StepOperand& src, const StepOperand& dst) {
  at.check_dense(dst, "output");
  at.check_dense(src, "input", &dst);
  const Tensor& t = dst.tensor;
  at.check(t.rank > 1 && (t.shape[1] == 1 || t.strides[1] == 1), "the channels do not lie side by side");
  return t.shape[1];
}

Step prepare_batch_norm(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const int64_t channels = channels_of(*at, *src, *dst), rows = dst->tensor.count() / channels;
  const float *mean = at->vector("running_mean", channels), *variance = at->vector("running_var", channels);
  at->check(mean != nullptr && variance != nullptr, "running_mean and running_var are needed");
  const auto norm = std::make_shared<const BatchNorm>(channels, mean, variance, at->vector("weight", channels),
                                                      at->vector("bias", channels), at->number("eps"));
  return {[=](const PlanRun& run) { norm->run(run.floats(*src), rows, run.floats(*dst)); }};
}

Step prepare_layer_norm(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const int64_t channels = channels_of(*at, *src, *dst), rows = dst->tensor.count() / channels;
  const auto norm = std::make_shared<const LayerNorm>(
      channels, at->vector("weight", channels), at->vector("bias", channels), static_cast<float>(at->number("eps")));
  return {[=](const PlanRun& run) { norm->run(run.floats(*src), rows, run.floats(*dst)); }};
}

Step prepare_local_response_norm(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const int64_t channels = channels_of(*at, *src, *dst), rows = dst->tensor.count() / channels;
  const LocalResponseArgs args =
      describe_local_response(channels, at->get<int64_t>("size"), static_cast<float>(at->number("alpha")),
                              static_cast<float>(at->number("beta")), static_cast<float>(at->number("k")));
  Scratch counted;
  reserve_local_response(args, rows, at->threads, counted);
  return {[=](const PlanRun& run) {
            Scratch scratch(run.scratch);
            run_local_response(args, run.floats(*src), rows, run.floats(*dst), at->threads, scratch);
          },
          counted.bytes()};
}

const RegisterStep batch_norm("batch_norm", prepare_batch_norm);
const RegisterStep layer_norm("layer_norm", prepare_layer_norm);
const RegisterStep local_response_norm("local_response_norm", prepare_local_response_norm);

}  // namespace
}  // namespace convlane
