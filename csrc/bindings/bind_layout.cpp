// Layout conversions, concatenation and interleaving.
#include "bindings/arrays.h"
#include "ops/shape.h"

namespace convlane {

void bind_layout(py::module_& m) {
  m.def(
      "to_channels_last",
      [](const py::array& input) {
        const ImageView src = image_view(input, "input");
        py::array dst = new_image(src.shape);
        float* to = data_of(dst);
        const GilRelease release;
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
        const GilRelease release;
        copy_to_nchw(src, to);
        return dst;
      },
      py::arg("input"));
  m.def(
      "cat",
      [](const std::vector<py::array>& tensors, int64_t dim, const Shape4& shape) {
        std::vector<ImageView> images;
        for (const py::array& tensor : tensors) images.push_back(image_view(tensor, "tensors"));
        py::array dst = new_image(shape);
        float* to = data_of(dst);
        const GilRelease release;
        run_cat(images, dim, shape, to);
        return dst;
      },
      py::arg("tensors"), py::arg("dim"), py::arg("shape"));
  m.def(
      "interleave",
      [](const std::vector<py::array>& tensors) {
        std::vector<ImageView> images;
        for (const py::array& tensor : tensors) images.push_back(image_view(tensor, "tensors"));
        if (images.empty()) throw std::invalid_argument("interleave: there are no images");
        Shape4 shape = images[0].shape;
        for (const ImageView& image : images)
          if (image.shape != shape) throw std::invalid_argument("interleave: the images differ in shape");
        shape[1] = checked_mul(shape[1], static_cast<int64_t>(images.size()));
        py::array dst = new_image(shape);
        float* to = data_of(dst);
        const GilRelease release;
        std::vector<ChannelsLast> converted;
        converted.reserve(images.size());
        for (ImageView& image : images)
          if (!has_one_stride(image)) image = converted.emplace_back(image).view();
        run_interleave(images.data(), static_cast<int64_t>(images.size()), to);
        return dst;
      },
      py::arg("tensors"));
}

}  // namespace convlane
