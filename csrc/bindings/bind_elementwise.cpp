// Activations, softmax, sums, products and channel-wise scaling. All take images; the Python layer views arrays of
// other ranks as such.
#include "bindings/arrays.h"
#include "ops/activation.h"
#include "ops/elementwise.h"

namespace convlane {
namespace {

py::array activation(const py::array& input, const std::string& name, float slope) {
  const Activation which = activation_from_name(name);
  const ImageView src = image_view(input, "input");
  py::array dst = new_image(src.shape);
  float* to = data_of(dst);
  py::gil_scoped_release release;
  run_activation(channels_last_or_into(src, to), to, src.count(), which, slope);
  return dst;
}

py::array softmax(const py::array& input, bool log) {
  const ImageView src = image_view(input, "input");
  py::array dst = new_image(src.shape);
  float* to = data_of(dst);
  py::gil_scoped_release release;
  run_softmax(channels_last_or_into(src, to), to, src.pixels(), src.shape[1], log);
  return dst;
}

std::pair<ImageView, ImageView> same_shapes(const py::array& input, const py::array& other, const std::string& op) {
  const ImageView a = image_view(input, "input"), b = image_view(other, "other");
  if (a.shape != b.shape)
    throw std::invalid_argument(op + ": input has shape " + to_string(a.shape) + ", but other has " +
                                to_string(b.shape));
  return {a, b};
}

py::array add(const py::array& input, const py::array& other, const std::string& name, float slope) {
  const Activation which = activation_from_name(name);
  const auto [a, b] = same_shapes(input, other, "add");
  py::array dst = new_image(a.shape);
  float* to = data_of(dst);
  py::gil_scoped_release release;
  const ChannelsLast second(b);
  run_add(channels_last_or_into(a, to), second.view().data, to, a.count(), which, slope);
  return dst;
}

py::array mul(const py::array& input, const py::array& other) {
  const auto [a, b] = same_shapes(input, other, "mul");
  py::array dst = new_image(a.shape);
  float* to = data_of(dst);
  py::gil_scoped_release release;
  const ChannelsLast second(b);
  run_multiply(channels_last_or_into(a, to), second.view().data, to, a.count());
  return dst;
}

py::array scale(const py::array& input, const py::array& factor) {
  const ImageView src = image_view(input, "input"), f = image_view(factor, "scale");
  const int64_t images = f.shape[0];
  if ((images != 1 && images != src.shape[0]) || f.shape != Shape4{images, src.shape[1], 1, 1})
    throw std::invalid_argument("scale: input has shape " + to_string(src.shape) + ", but scale has " +
                                to_string(f.shape));
  py::array dst = new_image(src.shape);
  float* to = data_of(dst);
  py::gil_scoped_release release;
  const ChannelsLast factors(f);
  const ImageView dense = channels_last_view(channels_last_or_into(src, to), src.shape);
  run_scale(dense, factors.view().data, images == 1 ? 0 : src.shape[1], to);
  return dst;
}

}  // namespace

void bind_elementwise(py::module_& m) {
  m.def("activation", &activation, py::arg("input"), py::arg("name"), py::arg("slope"));
  m.def("softmax", &softmax, py::arg("input"), py::arg("log"));
  m.def("add", &add, py::arg("input"), py::arg("other"), py::arg("activation"), py::arg("slope"));
  m.def("mul", &mul, py::arg("input"), py::arg("other"));
  m.def("scale", &scale, py::arg("input"), py::arg("scale"));
}

}  // namespace convlane
