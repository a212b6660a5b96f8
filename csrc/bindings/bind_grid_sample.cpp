// Images and volumes sampled at the points of a grid.
#include "bindings/arrays.h"
#include "ops/grid_sample.h"
#include "runtime/threads.h"

namespace convlane {
namespace {

using Floats = py::array_t<float, py::array::c_style>;

// input (N, D, H, W, C) and grid (N, D, H, W, axes).
GridSampleDesc desc_of(const Floats& input, const Floats& grid, const std::string& mode, const std::string& outside,
                       bool align_corners) {
  if (input.ndim() != 5 || grid.ndim() != 5 || input.shape(0) != grid.shape(0))
    throw std::invalid_argument("grid_sample: input must be (N, D, H, W, C), and grid (N, D, H, W, axes)");
  GridSampleDesc desc{};
  for (int i = 0; i < 5; ++i) desc.input[static_cast<std::size_t>(i)] = input.shape(i);
  for (int i = 0; i < 3; ++i) desc.output[static_cast<std::size_t>(i)] = grid.shape(i + 1);
  desc.axes = static_cast<int>(grid.shape(4));
  desc.mode = sampling_from_name(mode);
  desc.outside = outside_from_name(outside);
  desc.align_corners = align_corners;
  check_grid_sample(desc);
  return desc;
}

py::array sample(const Floats& input, const Floats& grid, const std::string& mode, const std::string& outside,
                 bool align_corners) {
  const GridSampleDesc desc = desc_of(input, grid, mode, outside, align_corners);
  py::array dst = new_array({desc.input[0], desc.output[0], desc.output[1], desc.output[2], desc.input[4]});
  const float *src = input.data(), *points = grid.data();
  float* to = data_of(dst);
  const GilRelease release;
  const int threads = num_threads();
  with_scratch([&](Scratch& scratch) { reserve_grid_sample(desc, threads, scratch); },
               [&](Scratch& scratch) { run_grid_sample(desc, src, points, to, threads, scratch); });
  return dst;
}

using Gradient = std::optional<py::array>;

// The gradients of the input and of the grid, where requested.
std::pair<Gradient, Gradient> sample_gradient(const Floats& input, const Floats& grid, const Floats& gradient,
                                              const std::string& mode, const std::string& outside, bool align_corners,
                                              bool of_input, bool of_grid) {
  const GridSampleDesc desc = desc_of(input, grid, mode, outside, align_corners);
  if (gradient.ndim() != 5 || gradient.shape(0) != desc.input[0] || gradient.shape(4) != desc.input[4] ||
      !std::equal(gradient.shape() + 1, gradient.shape() + 4, grid.shape() + 1))
    throw std::invalid_argument("grid_sample: the gradient has another shape than the result");
  std::pair<Gradient, Gradient> results;
  if (of_input) results.first = new_array({input.shape(), input.shape() + 5});
  if (of_grid) results.second = new_array({grid.shape(), grid.shape() + 5});
  float* to_input = of_input ? data_of(*results.first) : nullptr;
  float* to_grid = of_grid ? data_of(*results.second) : nullptr;
  const float *src = input.data(), *points = grid.data(), *behind = gradient.data();
  const GilRelease release;
  const int threads = num_threads();
  with_scratch([&](Scratch& scratch) { reserve_grid_sample_gradient(desc, threads, scratch); },
               [&](Scratch& scratch) {
                 run_grid_sample_gradient(desc, src, points, behind, to_input, to_grid, threads, scratch);
               });
  return results;
}

}  // namespace

void bind_grid_sample(py::module_& m) {
  m.def("grid_sample", &sample, py::arg("input").noconvert(), py::arg("grid").noconvert(), py::arg("mode"),
        py::arg("outside"), py::arg("align_corners"));
  m.def("grid_sample_gradient", &sample_gradient, py::arg("input").noconvert(), py::arg("grid").noconvert(),
        py::arg("gradient").noconvert(), py::arg("mode"), py::arg("outside"), py::arg("align_corners"),
        py::arg("of_input"), py::arg("of_grid"));
}

}  // namespace convlane
