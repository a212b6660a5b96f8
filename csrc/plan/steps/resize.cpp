// Steps of resampling.
#include "ops/resize.h"

#include <algorithm>

#include "plan/step.h"

namespace convlane {
namespace {

// The table of one axis: constants (size, taps), of indices and of weights.
ResizeAxis axis_of(const StepArguments& at, const std::string& name) {
  const auto index = at.arrays.find(name + "_index"), weight = at.arrays.find(name + "_weight");
  at.check(index != at.arrays.end() && weight != at.arrays.end(), "the table of " + name + " is missing");
  const Tensor &i = index->second.tensor, &w = weight->second.tensor;
  at.check(i.dtype == DType::i64 && w.dtype == DType::f32 && i.rank == 2 && w.rank == 2 && i.shape == w.shape,
           "the table of " + name + " must have int64 indices and as many float32 weights");
  const int64_t count = i.count();
  const auto dense = [](const Tensor& t) {
    return (t.shape[1] == 1 || t.strides[1] == 1) && (t.shape[0] == 1 || t.strides[0] == t.shape[1]);
  };
  at.check(count > 0 && dense(i) && dense(w), "the table of " + name + " must be contiguous");
  const auto* indices = static_cast<const int64_t*>(i.data);
  return {i.shape[1], {indices, indices + count}, {w.floats(), w.floats() + count}};
}

// Images; the tables of height and width.
Step prepare_resize(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  at->check(!src->any_layout(), "input must lie in the arena");
  at->check_dense_image(*src, "input");
  at->check_dense_image(*dst, "output");
  const Extents& size = src->tensor.shape;
  const int64_t n = size[0], c = size[1], h = size[2], w = size[3];
  const auto desc = std::make_shared<const ResizeDesc>(
      ResizeDesc{{n, 1, h, w, c}, {ResizeAxis{1, {0}, {1.0f}}, axis_of(*at, "height"), axis_of(*at, "width")}});
  check_resize(*desc);
  at->check_shape(*dst, "output", {n, c, desc->axes[1].size(), desc->axes[2].size()});
  const int threads = at->threads;
  return {[=](const PlanRun& run) {
            run_resize(*desc, run.floats(*src), run.floats(*dst), static_cast<float*>(run.scratch), threads);
          },
          resize_scratch(*desc, threads) * static_cast<int64_t>(sizeof(float))};
}

const RegisterStep resize("resize", prepare_resize);

}  // namespace
}  // namespace convlane
