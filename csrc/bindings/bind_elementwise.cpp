// Activations, sums and channel-wise scaling. All take images; the Python layer views arrays of other ranks as images.
#include "bindings/arrays.h"
#include "ops/activation.h"
#include "ops/elementwise.h"

namespace convlane {
namespace {

std::pair<ImageView, ImageView> same_shapes(const py::array& input, const py::array& other, const std::string& op,
                                            const std::string& name = "other") {
  const ImageView a = image_view(input, "input"), b = image_view(other, name.c_str());
  if (a.shape != b.shape)
    throw std::invalid_argument(op + ": input has shape " + to_string(a.shape) + ", but " + name + " has " +
                                to_string(b.shape));
  return {a, b};
}

py::array activation(const py::array& input, const std::string& name, float slope) {
  const Activation which = activation_from_name(name);
  const ImageView src = image_view(input, "input");
  py::array dst = new_image(src.shape);
  float* to = data_of(dst);
  const GilRelease release;
  run_activation(channels_last_or_into(src, to), to, src.count(), which, slope);
  return dst;
}

py::array add(const py::array& input, const py::array& other, const std::string& name, float slope) {
  const Activation which = activation_from_name(name);
  const auto [a, b] = same_shapes(input, other, "add");
  py::array dst = new_image(a.shape);
  float* to = data_of(dst);
  const GilRelease release;
  const ChannelsLast second(b);
  run_add(channels_last_or_into(a, to), second.view().data, to, a.count(), which, slope);
  return dst;
}

py::array activation_gradient(const py::array& kept, const py::array& gradient, const std::string& name, float slope,
                              bool from_output) {
  const Activation which = activation_from_name(name);
  if (from_output) check_follows_from_output(which, name, slope);
  const auto [at, behind] = same_shapes(kept, gradient, "activation_gradient", "gradient");
  py::array dst = new_image(at.shape);
  float* to = data_of(dst);
  const GilRelease release;
  const ChannelsLast first(at);
  run_activation_gradient(first.view().data, channels_last_or_into(behind, to), to, at.count(), which, slope,
                          from_output);
  return dst;
}

// The factors' gradient: (N, C, 1, 1) or, where the images share them, (1, C, 1, 1).
py::array scale_scale_gradient(const py::array& input, const py::array& gradient, bool shared) {
  const auto [src, behind] = same_shapes(input, gradient, "scale_scale_gradient", "gradient");
  py::array dst = new_image({shared ? 1 : src.shape[0], src.shape[1], 1, 1});
  float* to = data_of(dst);
  const GilRelease release;
  const ChannelsLast first(src), second(behind);
  run_scale_gradient(first.view(), second.view().data, shared, to);
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
  const GilRelease release;
  const ChannelsLast factors(f);
  const ImageView dense = channels_last_view(channels_last_or_into(src, to), src.shape);
  run_scale(dense, factors.view().data, images == 1 ? 0 : src.shape[1], to);
  return dst;
}

}  // namespace

void bind_elementwise(py::module_& m) {
  m.def("activation", &activation, py::arg("input"), py::arg("name"), py::arg("slope"));
  m.def("activation_gradient", &activation_gradient, py::arg("kept"), py::arg("gradient"), py::arg("name"),
        py::arg("slope"), py::arg("from_output"));
  m.def("add", &add, py::arg("input"), py::arg("other"), py::arg("activation"), py::arg("slope"));
  m.def("scale", &scale, py::arg("input"), py::arg("scale"));
  m.def("scale_scale_gradient", &scale_scale_gradient, py::arg("input"), py::arg("gradient"), py::arg("shared"));
}

}  // namespace convlane
