// Steps of normalisations. Rows are pixels: what has one channel after the other in memory.
#include "ops/norm.h"

#include "plan/step.h"

namespace convlane {
namespace {

Step prepare_batch_norm(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const ChannelRows size = at->channel_rows(*src, *dst);
  const float *mean = at->vector("running_mean", size.channels), *variance = at->vector("running_var", size.channels);
  at->check(mean != nullptr && variance != nullptr, "running_mean and running_var are needed");
  const auto norm =
      std::make_shared<const BatchNorm>(size.channels, mean, variance, at->vector("weight", size.channels),
                                        at->vector("bias", size.channels), at->number("eps"));
  return {[=](const PlanRun& run) { norm->run(run.floats(*src), size.rows, run.floats(*dst)); }};
}

Step prepare_layer_norm(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const ChannelRows size = at->channel_rows(*src, *dst);
  const auto norm =
      std::make_shared<const LayerNorm>(size.channels, at->vector("weight", size.channels),
                                        at->vector("bias", size.channels), static_cast<float>(at->number("eps")));
  return {[=](const PlanRun& run) { norm->run(run.floats(*src), size.rows, run.floats(*dst)); }};
}

Step prepare_local_response_norm(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const ChannelRows size = at->channel_rows(*src, *dst);
  const LocalResponseArgs args =
      describe_local_response(size.channels, at->get<int64_t>("size"), static_cast<float>(at->number("alpha")),
                              static_cast<float>(at->number("beta")), static_cast<float>(at->number("k")));
  Scratch counted;
  reserve_local_response(args, size.rows, at->threads, counted);
  return {[=](const PlanRun& run) {
            Scratch scratch(run.scratch);
            run_local_response(args, run.floats(*src), size.rows, run.floats(*dst), at->threads, scratch);
          },
          counted.bytes()};
}

const RegisterStep batch_norm("batch_norm", prepare_batch_norm);
const RegisterStep layer_norm("layer_norm", prepare_layer_norm);
const RegisterStep local_response_norm("local_response_norm", prepare_local_response_norm);

}  // namespace
}  // namespace convlane
