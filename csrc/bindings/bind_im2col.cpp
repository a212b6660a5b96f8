// im2col and col2im.
#include "bindings/arrays.h"
#include "ops/im2col.h"
#include "runtime/threads.h"

namespace convlane {

void bind_im2col(py::module_& m) {
  m.def(
      "im2col",
      [](const py::array& input, const Pair& kernel, const Pair& stride, const Sides& padding, const Pair& dilation) {
        const ImageView src = image_view(input, "input");
        const Im2colDesc desc = describe_im2col("im2col", src.shape, window_of(stride, padding, dilation, kernel));
        py::array dst = new_array({src.shape[0], desc.rows, desc.columns});
        float* to = data_of(dst);
        const GilRelease release;
        im2col(desc, src, to, num_threads());
        return dst;
      },
      py::arg("input"), py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("dilation"));
  m.def(
      "col2im",
      [](const py::array& input, const Shape4& image, const Pair& kernel, const Pair& stride, const Sides& padding,
         const Pair& dilation) {
        const ImageView src = image_view(input, "input");
        const Im2colDesc desc = describe_im2col("col2im", image, window_of(stride, padding, dilation, kernel));
        py::array dst = new_image(image);
        float* to = data_of(dst);
        const GilRelease release;
        const auto [n, c, h, w] = image;
        const auto planes = allocate_aligned<float>(checked_mul(checked_mul(n, c), checked_mul(h, w)));
        col2im(desc, src, planes.get(), num_threads());
        copy_to_channels_last({planes.get(), image, {c * h * w, h * w, w, 1}}, to);
        return dst;
      },
      py::arg("input"), py::arg("image"), py::arg("kernel"), py::arg("stride"), py::arg("padding"),
      py::arg("dilation"));
  m.def(
      "im2col_shape",
      [](const char* op, const Shape4& image, const Pair& kernel, const Pair& stride, const Sides& padding,
         const Pair& dilation) {
        const Im2colDesc desc = describe_im2col(op, image, window_of(stride, padding, dilation, kernel));
        return py::make_tuple(image[0], desc.rows, desc.columns);
      },
      py::arg("op"), py::arg("image"), py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("dilation"));
}

}  // namespace convlane
