// Steps of normalisations. Rows are pixels, whose channels are adjacent in memory.
#include "ops/norm.h"

#include "ops/group_norm.h"
#include "plan/step.h"
#include "plan/steps/dense.h"

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

// Rows of `size` numbers: the adjacent channels or, with c_order, the last dimensions in C order.
Step prepare_layer_norm(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const int64_t size = at->get<int64_t>("size"), count = dst->tensor.count();
  at->check_dense(*dst, "output");
  at->check_dense(*src, "input", dst);
  at->check(size > 0 && count % size == 0, "the size of a row does not divide the input");
  const auto norm = std::make_shared<const LayerNorm>(size, at->get<bool>("centered"), at->vector("weight", size),
                                                      at->vector("bias", size), static_cast<float>(at->number("eps")));
  if (!at->get<bool>("c_order"))
    return {[=](const PlanRun& run) { norm->run(run.floats(*src), count / size, run.floats(*dst)); }};
  Scratch counted;
  const Dense of_input(*src, counted), of_output(*dst, counted);
  return {[=](const PlanRun& run) {
            Scratch scratch(run.scratch);
            const Dense from(*src, scratch), to(*dst, scratch);
            norm->run(from.load(run).floats(), count / size, to.open(run).floats());
            to.store(run);
          },
          counted.bytes()};
}

// Attributes: groups, eps. The channels, dimension 1, are adjacent, or the numbers of each channel are.
Step prepare_group_norm(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  at->check_dense(*dst, "output");
  at->check_dense(*src, "input", dst);
  const Tensor& t = dst->tensor;
  at->check(t.rank > 1, "the input must have channels");
  const int64_t images = t.shape[0], channels = t.shape[1];
  int64_t pixels = 1;
  for (int d = 2; d < t.rank; ++d) pixels *= t.shape[d];
  const bool channels_last = channels == 1 || t.strides[1] == 1;
  at->check(t.count() == 0 ||
                ((images == 1 || t.strides[0] == channels * pixels) && (channels_last || t.strides[1] == pixels)),
            "neither the channels nor the numbers of each channel are adjacent");
  const GroupNormShape shape = describe_group_norm(images, channels, at->get<int64_t>("groups"), pixels, channels_last);
  const float *weight = at->vector("weight", channels), *bias = at->vector("bias", channels);
  const double eps = at->number("eps");
  const auto statistics = [=](Scratch& scratch) { return scratch.take<double>(2 * images * shape.groups); };
  Scratch counted;
  statistics(counted);
  reserve_group_norm(shape, counted);
  return {[=](const PlanRun& run) {
            Scratch scratch(run.scratch);
            double* const mean = statistics(scratch);
            run_group_norm(shape, run.floats(*src), weight, bias, eps, mean, mean + images * shape.groups,
                           run.floats(*dst), at->threads, scratch);
          },
          counted.bytes()};
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
const RegisterStep group_norm("group_norm", prepare_group_norm);
const RegisterStep layer_norm("layer_norm", prepare_layer_norm);
const RegisterStep local_response_norm("local_response_norm", prepare_local_response_norm);

}  // namespace
}  // namespace convlane
