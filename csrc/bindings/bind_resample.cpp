// Resampling of one picture.
#include <stdexcept>

#include "bindings/arrays.h"
#include "ops/resample.h"

namespace convlane {

void bind_resample(py::module_& m) {
  m.def(
      "resample",
      [](const py::array& input, const std::array<double, 6>& matrix, const Pair& size,
         const std::optional<py::array>& field, const std::string& border, float fill, int64_t samples) {
        const ImageView src = image_view(input, "input");
        const ResampleDesc desc{matrix, size, border_of(border), fill, samples};
        check_resample(desc, src.shape);
        const Shape4 shape{1, src.shape[1], size[0], size[1]};
        AlignedArray<float> copy;
        if (field) {
          const ImageView view = image_view(*field, "field");
          const Shape4 expected{1, 2, size[0], size[1]};
          if (view.shape != expected)
            throw std::invalid_argument("field must have the shape " + to_string(expected) + ", got " +
                                        to_string(view.shape));
          copy = allocate_aligned<float>(view.count());
          copy_to_nchw(view, copy.get());
        }
        py::array dst = new_image(shape);
        float* to = data_of(dst);
        const GilRelease release;
        run_resample(desc, src, copy.get(), to);
        return dst;
      },
      py::arg("input"), py::arg("matrix"), py::arg("size"), py::arg("field"), py::arg("border"), py::arg("fill"),
      py::arg("samples"));
}

}  // namespace convlane
