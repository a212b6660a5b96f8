// Steps of fully connected layers.
#include "ops/linear.h"
#include "plan/step.h"

namespace convlane {
namespace {

// The input: rows, or images (N, C, H, W) in the layout that the weight was packed for.
Step prepare_linear(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const auto weight = at->weight("weight");
  const int64_t out = weight->shape()[0], in = weight->shape()[1];
  at->check(
      weight->layout() == WeightLayout::panels && weight->groups() == 1 && weight->shape()[2] * weight->shape()[3] == 1,
      "the weight is packed for a convolution");
  at->check_dense(*src, "input");
  at->check_dense(*dst, "output");
  const int64_t rows = src->tensor.shape[0];
  at->check(src->tensor.rank > 1 && src->tensor.count() == rows * in,
            "the input does not have " + std::to_string(in) + " features in each row");
  at->check(dst->tensor.count() == rows * out, "the output has another size");
  LinearArgs args{};
  args.rows = rows;
  args.src_stride = in;
  args.weight = weight.get();
  args.epilogue.bias = at->vector("bias", out);
  args.epilogue.activation = at->activation();
  args.epilogue.slope = at->slope();
  args.threads = at->threads;
  Scratch counted;
  reserve_linear(args, counted);
  return {[=](const PlanRun& run) {
            LinearArgs now = args;
            now.src = run.floats(*src);
            now.dst = run.floats(*dst);
            Scratch scratch(run.scratch);
            run_linear(now, scratch);
          },
          counted.bytes()};
}

const RegisterStep linear("linear", prepare_linear);

}  // namespace
}  // namespace convlane
