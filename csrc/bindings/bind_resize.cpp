// Resampling along the axes of images.
#include <stdexcept>

#include "bindings/arrays.h"
#include "ops/resize.h"
#include "runtime/threads.h"

namespace convlane {
namespace {

using Indices = py::array_t<int64_t, py::array::c_style>;
using Weights = py::array_t<float, py::array::c_style>;

ResizeAxis axis_of(const Indices& index, const Weights& weight) {
  if (index.ndim() != 2 || weight.ndim() != 2 || index.shape(1) < 1)
    throw std::invalid_argument("resize: the tables of an axis must be (size, taps)");
  return {index.shape(1), {index.data(), index.data() + index.size()}, {weight.data(), weight.data() + weight.size()}};
}

}  // namespace

void bind_resize(py::module_& m) {
  m.def(
      "resize",
      [](const py::array_t<float, py::array::c_style>& input, const std::array<std::pair<Indices, Weights>, 3>& axes) {
        if (input.ndim() != 5) throw std::invalid_argument("resize: input must be (N, D, H, W, C)");
        ResizeDesc desc;
        for (int i = 0; i < 5; ++i) desc.input[i] = input.shape(i);
        for (int i = 0; i < 3; ++i) desc.axes[i] = axis_of(axes[i].first, axes[i].second);
        check_resize(desc);
        const auto shape = desc.output();
        py::array dst = new_array({shape.begin(), shape.end()});
        const int threads = num_threads();
        const AlignedArray<float> scratch = allocate_aligned<float>(resize_scratch(desc, threads));
        const float* src = input.data();
        float* to = data_of(dst);
        const GilRelease release;
        run_resize(desc, src, to, scratch.get(), threads);
        return dst;
      },
      py::arg("input").noconvert(), py::arg("axes"));
}

}  // namespace convlane
