// Steps of resampling. Their kernels read and write channels last.
#include "ops/resize.h"

#include "ops/grid_sample.h"
#include "plan/steps/dense.h"

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
  at.check(count > 0 && is_dense(i) && is_dense(w), "the table of " + name + " must be contiguous");
  const auto* indices = static_cast<const int64_t*>(i.data);
  return {i.shape[1], {indices, indices + count}, {w.floats(), w.floats() + count}};
}

// N, D, H, W, C of (N, C, L), (N, C, H, W) or (N, C, D, H, W).
std::array<int64_t, 5> volume_of(const StepArguments& at, const Tensor& t) {
  at.check(t.dtype == DType::f32 && t.rank >= 3 && t.rank <= 5, "input and output must be float32 (N, C, ...)");
  std::array<int64_t, 5> sizes{t.shape[0], 1, 1, 1, t.shape[1]};
  for (int d = 2; d < t.rank; ++d) sizes[static_cast<std::size_t>(4 + d - t.rank)] = t.shape[d];
  return sizes;
}

// The tables of depth, height and width.
Step prepare_resize(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const auto desc = std::make_shared<const ResizeDesc>(
      ResizeDesc{volume_of(*at, src->tensor), {axis_of(*at, "depth"), axis_of(*at, "height"), axis_of(*at, "width")}});
  check_resize(*desc);
  at->check(volume_of(*at, dst->tensor) == desc->output() && src->tensor.rank == dst->tensor.rank,
            "the output is not the one that the tables give");
  const int threads = at->threads;
  return step_of([=](const PlanRun* run, Scratch& scratch) {
    const Dense from(*src, scratch, Order::channels_last), to(*dst, scratch, Order::channels_last);
    auto* rows = scratch.take<float>(resize_scratch(*desc, threads));
    if (run == nullptr) return;
    run_resize(*desc, from.load(*run).floats(), to.open(*run).floats(), rows, threads);
    to.store(*run);
  });
}

// Inputs: images or volumes, and the grid (N, ..., axes), whose inner sizes are the output's. Either may be a constant
// for all images.
Step prepare_grid_sample(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(2, 2), *src = &at->inputs[0], *grid = &at->inputs[1];
  const Tensor &points = grid->tensor, &result = dst->tensor;
  const int rank = src->tensor.rank;
  at->check(points.dtype == DType::f32 && rank >= 4 && points.rank == rank && result.rank == rank &&
                points.shape[rank - 1] == rank - 2 && result.shape[1] == src->tensor.shape[1],
            "inputs and output do not fit");
  for (int d = 2; d < rank; ++d)
    at->check(result.shape[d] == points.shape[d - 1], "the output has another size than the grid");
  const int64_t images = result.shape[0];
  for (const Tensor* each : {&src->tensor, &points})
    at->check(each->shape[0] == images || each->shape[0] == 1, "the inputs do not have the output's batch");
  const bool alike = src->tensor.shape[0] == points.shape[0];
  const std::array<int64_t, 5> input = volume_of(*at, src->tensor), output = volume_of(*at, result);
  GridSampleDesc desc{input,
                      {output[1], output[2], output[3]},
                      rank - 2,
                      sampling_from_name(at->get<std::string>("mode")),
                      outside_from_name(at->get<std::string>("padding_mode")),
                      at->get<bool>("align_corners")};
  desc.input[0] = alike ? images : 1;
  check_grid_sample(desc);
  const auto step = [](const Tensor& t) { return t.shape[0] > 1 ? t.count() / t.shape[0] : 0; };
  const int64_t from_step = step(src->tensor), grid_step = step(points), to_step = step(result);
  const int64_t runs = alike ? 1 : images;
  const int threads = at->threads;
  return step_of([=](const PlanRun* run, Scratch& scratch) {
    const Dense from(*src, scratch, Order::channels_last), which(*grid, scratch),
        to(*dst, scratch, Order::channels_last);
    if (run == nullptr) return reserve_grid_sample(desc, threads, scratch);
    const float *pixels = from.load(*run).floats(), *numbers = which.load(*run).floats();
    float* sampled = to.open(*run).floats();
    for (int64_t i = 0; i < runs; ++i) {
      Scratch again = scratch;
      run_grid_sample(desc, pixels + i * from_step, numbers + i * grid_step, sampled + i * to_step, threads, again);
    }
    to.store(*run);
  });
}

const RegisterStep resize("resize", prepare_resize);
const RegisterStep grid_sample("grid_sample", prepare_grid_sample);

}  // namespace
}  // namespace convlane
