// Steps of convolution: plain, pooled, in blocks around a depthwise one, and transposed.
#include "ops/conv2d_pool.h"
#include "ops/depthwise_block.h"
#include "plan/step.h"

namespace convlane {
namespace {

// Bias and activation of a convolution with `channels` outputs; the names of its arguments begin with `prefix`.
Epilogue epilogue_of(const StepArguments& at, int64_t channels, const std::string& prefix = "") {
  Epilogue epilogue;
  epilogue.bias = at.vector(prefix + "bias", channels);
  epilogue.activation = at.activation(prefix);
  epilogue.slope = at.slope(prefix);
  return epilogue;
}

// The residual, which is the second input, if there is one.
const StepOperand* residual_of(const StepArguments& at) {
  if (at.inputs.size() < 2) return nullptr;
  const StepOperand& residual = at.inputs[1];
  at.check(!residual.any_layout(), "residual must be in the arena");
  at.check_dense_image(residual, "residual");
  return &residual;
}

void add_residual(Epilogue& epilogue, const PlanRun& run, const StepOperand* residual) {
  if (residual == nullptr) return;
  epilogue.residual = run.floats(*residual);
  epilogue.residual_stride = residual->tensor.shape[1];
}

// Inputs: the images and optionally a residual. Attributes: geometry, algorithm, activation, negative_slope, and
// optionally pool, the geometry of a pooling of the result, which excludes a residual.
Step prepare_conv2d(std::shared_ptr<const StepArguments> at) {
  const StepOperand *src = &at->inputs.at(0), *dst = &at->output(1, 2);
  const StepOperand* residual = residual_of(*at);
  const auto desc = at->get<Conv2dDesc>("geometry");
  const auto weight = at->weight("weight");
  const Shape4 image{desc.n, desc.o, desc.oh, desc.ow};
  at->check(
      weight->shape() == Shape4{desc.o, desc.c_per_group(), desc.kh(), desc.kw()} && weight->groups() == desc.groups,
      "weight does not fit the geometry");
  const Conv2dAlgorithm* algorithm = &choose_conv2d(desc, at->get<std::string>("algorithm"), weight->layout());
  at->check_shape(*src, "input", {desc.n, desc.c, desc.h, desc.w});
  at->check_dense_image(*src, "input");
  if (residual != nullptr) at->check_shape(*residual, "residual", image);

  Conv2dArgs args{};
  args.weight = weight.get();
  args.epilogue = epilogue_of(*at, desc.o);
  args.dst_stride = at->pixel_stride(*dst, "output");
  args.threads = at->threads;
  Scratch counted;
  if (at->has("pool")) {
    const auto pool = at->get<Pool2dDesc>("pool");
    check_conv2d_pool(desc, pool);
    at->check(residual == nullptr, "a convolution that is pooled has no residual");
    at->check_shape(*dst, "output", pool.shape());
    reserve_conv2d_pool(*algorithm, desc, args, pool, src->any_layout(), counted);
    return {[=](const PlanRun& run) {
              Conv2dArgs now = args;
              now.src = run.image(*src);
              now.dst = run.floats(*dst);
              Scratch scratch(run.scratch);
              run_conv2d_pool(*algorithm, desc, now, pool, scratch);
            },
            counted.bytes()};
  }
  at->check_shape(*dst, "output", image);
  reserve_conv2d(*algorithm, desc, args, src->any_layout(), counted);
  return {[=](const PlanRun& run) {
            Conv2dArgs now = args;
            now.src = run.image(*src);
            now.dst = run.floats(*dst);
            add_residual(now.epilogue, run, residual);
            Scratch scratch(run.scratch);
            run_conv2d(*algorithm, desc, now, scratch);
          },
          counted.bytes()};
}

// Inputs: the volumes, as images of D * H rows, and optionally a residual. Attributes: geometry, algorithm, activation,
// negative_slope. There is one weight, or weight0, weight1 and so on for the slices of the kernel.
Step prepare_conv3d(std::shared_ptr<const StepArguments> at) {
  const StepOperand *src = &at->inputs.at(0), *dst = &at->output(1, 2);
  const StepOperand* residual = residual_of(*at);
  const auto desc = at->get<Conv3dDesc>("geometry");
  const auto algorithm = at->get<std::string>("algorithm");
  at->check(!src->any_layout(), "input must be in the arena");
  at->check_shape(*src, "input", desc.source());
  at->check_dense_image(*src, "input");
  at->check_shape(*dst, "output", desc.result());
  if (residual != nullptr) at->check_shape(*residual, "residual", desc.result());
  Conv2dArgs args{};
  args.epilogue = epilogue_of(*at, desc.slice.o);
  args.dst_stride = at->pixel_stride(*dst, "output");
  args.threads = at->threads;
  const bool whole = at->packed.count("weight") != 0;
  std::vector<const PackedWeight*> weights;
  for (int64_t a = 0; a < (whole ? 1 : desc.kernel); ++a) {
    weights.push_back(at->weight(whole ? "weight" : "weight" + std::to_string(a)).get());
    Shape4 filters = desc.filters();
    if (!whole) filters[2] = desc.slice.kh();
    at->check(weights[a]->shape() == filters && weights[a]->groups() == desc.slice.groups,
              "weight does not fit the geometry");
  }
  args.weight = weights[0];
  const auto step = [&](const auto& work, int64_t bytes) {
    return Step{[=](const PlanRun& run) {
                  Conv2dArgs now = args;
                  now.src = run.image(*src);
                  now.dst = run.floats(*dst);
                  add_residual(now.epilogue, run, residual);
                  Scratch scratch(run.scratch);
                  work(now, scratch);
                },
                bytes};
  };
  Scratch counted;
  if (whole) {
    const Conv3dChoice choice = choose_conv3d(desc, algorithm, args.weight->layout());
    reserve_conv3d(choice, args, false, counted);
    return step([=](const Conv2dArgs& now, Scratch& scratch) { run_conv3d(choice, now, scratch); }, counted.bytes());
  }
  at->check(sums_slices(desc), "it is no sum of convolutions of slices");
  const Conv2dAlgorithm* chosen = &choose_conv2d(desc.slice, algorithm, args.weight->layout());
  for (const PackedWeight* weight : weights)
    at->check(weight->layout() == args.weight->layout(), "the slices' weights are packed for several algorithms");
  reserve_conv3d_slices(desc, *chosen, args, counted);
  return step(
      [=](const Conv2dArgs& now, Scratch& scratch) { run_conv3d_slices(desc, *chosen, weights.data(), now, scratch); },
      counted.bytes());
}

// Inputs: the images, which may be slices of others' channels, and optionally a residual. For each part its packed
// weight, bias, activation and negative_slope, the last three prefixed with the part's name; geometry is the depthwise
// convolution's. Expand may be missing, as may squeeze and excite together.
Step prepare_depthwise_block(std::shared_ptr<const StepArguments> at) {
  const StepOperand *src = &at->inputs.at(0), *dst = &at->output(1, 2);
  const StepOperand* residual = residual_of(*at);
  DepthwiseBlock block{};
  const auto part = [&](const std::string& name, const PackedWeight*& weight, Epilogue& epilogue) {
    weight = at->weight(name).get();
    epilogue = epilogue_of(*at, weight->shape()[0], name + "_");
  };
  block.depthwise = at->get<Conv2dDesc>("geometry");
  part("depthwise", block.depthwise_weight, block.depthwise_epilogue);
  part("project", block.project, block.project_epilogue);
  if (at->packed.count("expand") != 0) part("expand", block.expand, block.expand_epilogue);
  if (at->packed.count("squeeze") != 0) part("squeeze", block.squeeze, block.squeeze_epilogue);
  if (at->packed.count("excite") != 0) part("excite", block.excite, block.excite_epilogue);
  check_depthwise_block(block);
  const Conv2dDesc& d = block.depthwise;
  at->check(!src->any_layout(), "input must be in the arena");
  block.src_stride = at->pixel_stride(*src, "input");
  at->check_shape(*src, "input", {d.n, block.expand == nullptr ? d.c : block.expand->shape()[1], d.h, d.w});
  const Shape4 image{d.n, block.project->shape()[0], d.oh, d.ow};
  at->check_shape(*dst, "output", image);
  at->check_dense_image(*dst, "output");
  if (residual != nullptr) at->check_shape(*residual, "residual", image);
  Scratch counted;
  reserve_depthwise_block(block, at->threads, counted);
  return {[=](const PlanRun& run) {
            DepthwiseBlock now = block;
            add_residual(now.project_epilogue, run, residual);
            Scratch scratch(run.scratch);
            run_depthwise_block(now, run.floats(*src), run.floats(*dst), at->threads, scratch);
          },
          counted.bytes()};
}

// Inputs: the images. Attributes: geometry (of the convolution whose input gradient it is), activation and
// negative_slope.
Step prepare_conv_transpose2d(std::shared_ptr<const StepArguments> at) {
  const StepOperand *src = &at->inputs.at(0), *dst = &at->output(1, 1);
  const auto desc = at->get<Conv2dDesc>("geometry");
  const auto weight = at->transposed_weight("weight");
  at->check(weight->fits(desc), "weight does not fit the geometry");
  at->check_shape(*src, "input", {desc.n, desc.o, desc.oh, desc.ow});
  at->check_dense_image(*src, "input");
  at->check_shape(*dst, "output", {desc.n, desc.c, desc.h, desc.w});
  ConvTranspose2dArgs args{};
  args.weight = weight.get();
  args.epilogue = epilogue_of(*at, desc.c);
  args.dst_stride = at->pixel_stride(*dst, "output");
  args.threads = at->threads;
  Scratch counted;
  reserve_conv_transpose2d(desc, args, src->any_layout(), counted);
  return {[=](const PlanRun& run) {
            ConvTranspose2dArgs now = args;
            now.src = run.image(*src);
            now.dst = run.floats(*dst);
            Scratch scratch(run.scratch);
            run_conv_transpose2d(desc, now, scratch);
          },
          counted.bytes()};
}

const RegisterStep conv2d("conv2d", prepare_conv2d);
const RegisterStep conv3d("conv3d", prepare_conv3d);
const RegisterStep conv_transpose2d("conv_transpose2d", prepare_conv_transpose2d);
const RegisterStep depthwise_block("depthwise_block", prepare_depthwise_block);

}  // namespace
}  // namespace convlane
