// Layout conversions.
#include "bindings/arrays.h"

namespace convlane {

void bind_layout(py::module_& m) {
  m.def(
      "to_channels_last",
      [](const py::array& input) {
        const ImageView src = image_view(input, "input");
        py::array dst = new_image(src.shape);
        float* to = data_of(dst);
        py::gil_scoped_release release;
        copy_to_channels_last(src, to);
        return dst;
      },
      py::arg("input"));
  m.def(
      "to_nchw",
      [](const py::array& input) {
        const ImageView src = image_view(input, "input");
        py::array dst = new_array({src.shape.begin(), src.shape.end()});
        float* to = data_of(dst);
        py::gil_scoped_release release;
        copy_to_nchw(src, to);
        return dst;
      },
      py::arg("input"));
}

}  // namespace convlane
