// Steps of pooling.
#include "ops/gather.h"
#include "plan/step.h"

namespace convlane {
namespace {

Step prepare_pool2d(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const auto desc = at->get<Pool2dDesc>("geometry");
  at->check_shape(*src, "input", desc.input);
  at->check_shape(*dst, "output", desc.shape());
  const int64_t src_stride = at->pixel_stride(*src, "input"), dst_stride = at->pixel_stride(*dst, "output");
  Scratch counted;
  if (src->any_layout()) counted.take<float>(src->tensor.count());
  return {[=](const PlanRun& run) {
            const ImageView image = run.image(*src);
            const float* pixels = image.data;
            if (src->any_layout() && !image.is_channels_last()) {
              float* copy = Scratch(run.scratch).take<float>(image.count());
              copy_to_channels_last(image, copy);
              pixels = copy;
            }
            run_pool2d(desc, pixels, src_stride, run.floats(*dst), dst_stride, nullptr);
          },
          counted.bytes()};
}

void check_volumes(const StepArguments& at, const Pool2dDesc& planes, const Pool2dDesc& depth) {
  const StepOperand& src = at.inputs[0];
  const Shape4 pooled = planes.shape(), rows = depth.input;
  at.check(pooled[0] == rows[0] * rows[2] && pooled[1] == rows[1] && pooled[2] * pooled[3] == rows[3],
           "planes and depth do not fit");
  at.check(!src.any_layout(), "the input must be in the arena");
  at.check_shape(src, "input", planes.input);
  at.check_dense_image(src, "input");
}

// Volumes as images, in two passes. `planes`: every plane of the input, (N * D, C, H, W). `depth`: along the depth,
// whose rows are whole planes, to the output (N, C, OD, OH * OW).
Step prepare_pool3d(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const auto planes = at->get<Pool2dDesc>("planes"), depth = at->get<Pool2dDesc>("depth");
  check_volumes(*at, planes, depth);
  const Shape4 pooled = planes.shape(), rows = depth.input;
  at->check_shape(*dst, "output", depth.shape());
  at->check_dense_image(*dst, "output");
  const int64_t between = channels_last_view(nullptr, pooled).count();
  Scratch counted;
  counted.take<float>(between);
  return {[=](const PlanRun& run) {
            float* maps = Scratch(run.scratch).take<float>(between);
            run_pool2d(planes, run.image(*src), maps, pooled[1], nullptr);
            run_pool2d(depth, channels_last_view(maps, rows), run.floats(*dst), rows[1], nullptr);
          },
          counted.bytes()};
}

// Indices of this shape, dense channels last.
void check_index_image(const StepArguments& at, const StepOperand& indices, const char* name, const Shape4& shape) {
  at.check_shape(indices, name, shape);
  const Shape4 strides = channels_last_view(nullptr, shape).strides;
  for (int d = 0; d < 4; ++d)
    at.check(indices.tensor.dtype == DType::i64 && (shape[d] == 1 || indices.tensor.strides[d] == strides[d]),
             std::string(name) + " must be int64, dense and channels last");
}

// The indices of maxima. The maxima themselves belong to another step, and are recomputed here into scratch.
Step prepare_pool2d_indices(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const auto desc = at->get<Pool2dDesc>("geometry");
  at->check(desc.kind == Pooling::max, "only maxima have indices");
  at->check(!src->any_layout(), "the input must be in the arena");
  at->check_shape(*src, "input", desc.input);
  at->check_dense_image(*src, "input");
  check_index_image(*at, *dst, "output", desc.shape());
  const int64_t count = dst->tensor.count();
  Scratch counted;
  counted.take<float>(count);
  return {[=](const PlanRun& run) {
            float* maxima = Scratch(run.scratch).take<float>(count);
            run_pool2d(desc, run.image(*src), maxima, desc.input[1], static_cast<int64_t*>(run.at(*dst)));
          },
          counted.bytes()};
}

// For the two passes over volumes.
struct Maxima {
  float *of_planes, *of_rows;
  int64_t *within, *along;  // their indices
};

// The indices of maxima in volumes.
Step prepare_pool3d_indices(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const auto planes = at->get<Pool2dDesc>("planes"), depth = at->get<Pool2dDesc>("depth");
  at->check(planes.kind == Pooling::max && depth.kind == Pooling::max, "only maxima have indices");
  check_volumes(*at, planes, depth);
  const Shape4 rows = depth.input, shape = depth.shape();
  check_index_image(*at, *dst, "output", shape);
  const int64_t between = channels_last_view(nullptr, rows).count(), count = dst->tensor.count();
  Scratch counted;
  const auto take = [=](Scratch& scratch) {
    return Maxima{scratch.take<float>(between), scratch.take<float>(count), scratch.take<int64_t>(between),
                  scratch.take<int64_t>(count)};
  };
  take(counted);
  return {[=](const PlanRun& run) {
            Scratch scratch(run.scratch);
            const Maxima found = take(scratch);
            run_pool2d(planes, run.image(*src), found.of_planes, rows[1], found.within);
            run_pool2d(depth, channels_last_view(found.of_planes, rows), found.of_rows, rows[1], found.along);
            const int64_t plane = planes.input[2] * planes.input[3];
            run_indices_in_volumes(found.within, rows[2], plane, found.along, shape,
                                   static_cast<int64_t*>(run.at(*dst)));
          },
          counted.bytes()};
}

// Inputs: images, and the positions of their numbers in the output's planes, checked in each run:
// std::invalid_argument.
Step prepare_max_unpool(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(2, 2), *src = &at->inputs[0], *index = &at->inputs[1];
  at->check_dense_image(*src, "input");
  at->check_dense_image(*dst, "output");
  at->check(!src->any_layout() && !index->any_layout(), "the inputs must be in the arena");
  const Tensor &from = src->tensor, &to = dst->tensor;
  check_index_image(*at, *index, "indices", {from.shape[0], from.shape[1], from.shape[2], from.shape[3]});
  at->check(from.shape[0] == to.shape[0] && from.shape[1] == to.shape[1], "the shapes do not fit");
  const Along planes{to.shape[0], checked_mul(to.shape[2], to.shape[3]), to.shape[1]};
  const int64_t chosen = checked_mul(from.shape[2], from.shape[3]), count = from.count();
  return {[=](const PlanRun& run) {
    const auto* indices = static_cast<const int64_t*>(run.at(*index));
    check_indices(indices, count, planes.count, "max_unpool");
    run_put_along(run.floats(*src), planes, indices, chosen, run.floats(*dst));
  }};
}

const RegisterStep pool2d("pool2d", prepare_pool2d);
const RegisterStep pool2d_indices("pool2d_indices", prepare_pool2d_indices);
const RegisterStep pool3d("pool3d", prepare_pool3d);
const RegisterStep pool3d_indices("pool3d_indices", prepare_pool3d_indices);
const RegisterStep max_unpool("max_unpool", prepare_max_unpool);

}  // namespace
}  // namespace convlane
