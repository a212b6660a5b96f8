// Transposed convolution and its packed weights.
#include "bindings/arrays.h"
#include "bindings/construct.h"
#include "ops/activation.h"
#include "ops/conv_transpose2d.h"
#include "runtime/threads.h"

namespace convlane {
namespace {

py::array conv_transpose2d(const py::array& input, const TransposedWeight& weight, const std::optional<py::array>& bias,
                           const Pair& stride, const Sides& padding, const Pair& output_padding, const Pair& dilation,
                           int64_t groups, const std::string& activation, float slope) {
  ConvTranspose2dArgs args{};
  args.src = image_view(input, "input");
  args.weight = &weight;
  const Conv2dDesc desc = describe_conv_transpose2d(args.src.shape, weight.shape(),
                                                    window_of(stride, padding, dilation), output_padding, groups);
  if (!weight.fits(desc))
    throw std::invalid_argument("conv_transpose2d: the weight was packed for stride " + to_string(weight.stride()) +
                                ", dilation " + to_string(weight.dilation()) +
                                " and groups=" + std::to_string(weight.groups()));
  const OptionalVector bias_v(bias, desc.c, "bias");
  args.epilogue.bias = bias_v.data();
  args.epilogue.activation = activation_from_name(activation);
  args.epilogue.slope = slope;
  py::array dst = new_image({desc.n, desc.c, desc.h, desc.w});
  args.dst = data_of(dst);
  args.dst_stride = desc.c;
  args.threads = num_threads();
  const GilRelease release;
  run_conv_transpose2d(desc, args);
  return dst;
}

}  // namespace

void bind_conv_transpose2d(py::module_& m) {
  py::class_<TransposedWeight, std::shared_ptr<TransposedWeight>>(m, "TransposedWeight")
      .def("__init__",
           constructor([](const py::array& weight, const Pair& stride, const Pair& dilation, int64_t groups,
                          const std::string& algorithm) {
             const ImageView view = image_view(weight, "weight");
             const GilRelease release;
             return std::make_shared<TransposedWeight>(view, stride, dilation, groups, algorithm);
           }),
           NewStyle(), py::arg("weight"), py::arg("stride"), py::arg("dilation"), py::arg("groups"),
           py::arg("algorithm"))
      .def_property_readonly("shape", [](const TransposedWeight& w) { return py::tuple(py::cast(w.shape())); })
      .def_property_readonly("groups", &TransposedWeight::groups)
      .def_property_readonly("isa", [](const TransposedWeight& w) { return isa_name(w.kernels().isa); })
      .def_property_readonly("nbytes", &TransposedWeight::bytes)
      .def_property_readonly("reversible", &TransposedWeight::reversible)
      .def("unpack", [](const TransposedWeight& w) {
        const Shape4& shape = w.shape();
        py::array weight = new_array({shape[0], shape[1], shape[2], shape[3]});
        float* to = data_of(weight);
        const GilRelease release;
        w.unpack(to);
        return weight;
      });

  m.def("conv_transpose2d", &conv_transpose2d, py::arg("input"), py::arg("weight"), py::arg("bias").none(true),
        py::arg("stride"), py::arg("padding"), py::arg("output_padding"), py::arg("dilation"), py::arg("groups"),
        py::arg("activation"), py::arg("slope"));
  m.def(
      "conv_transpose2d_geometry",
      [](const Shape4& input, const Shape4& weight, const Pair& stride, const Sides& padding,
         const Pair& output_padding, const Pair& dilation, int64_t groups) {
        return describe_conv_transpose2d(input, weight, window_of(stride, padding, dilation), output_padding, groups);
      },
      py::arg("input"), py::arg("weight"), py::arg("stride"), py::arg("padding"), py::arg("output_padding"),
      py::arg("dilation"), py::arg("groups"));
  m.def("cheapest_conv_transpose2d", &cheapest_conv_transpose2d, py::arg("geometry"), py::arg("winograd"));
}

}  // namespace convlane
