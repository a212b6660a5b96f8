// Convolution and packed weights.
#include "bindings/arrays.h"
#include "bindings/construct.h"
#include "ops/activation.h"
#include "ops/conv2d.h"
#include "ops/conv2d_backward.h"
#include "ops/conv3d.h"
#include "runtime/threads.h"

namespace convlane {
namespace {

// A new image of `shape`, computed by run() as `args` describes, with the residual added.
template <class Run>
py::array convolved(const std::string& op, const Shape4& shape, const std::optional<py::array>& residual,
                    Conv2dArgs& args, const Run& run) {
  std::optional<ImageView> residual_v;
  if (residual) {
    residual_v = image_view(*residual, "residual");
    if (residual_v->shape != shape)
      throw std::invalid_argument(op + ": residual has shape " + to_string(residual_v->shape) +
                                  ", but the output has " + to_string(shape));
  }
  py::array dst = new_image(shape);
  args.dst = data_of(dst);
  args.dst_stride = shape[1];
  args.threads = num_threads();
  const GilRelease release;
  std::optional<ChannelsLast> residual_last;
  if (residual_v) {
    residual_last.emplace(*residual_v);
    args.epilogue.residual = residual_last->view().data;
    args.epilogue.residual_stride = shape[1];
  }
  run();
  return dst;
}

py::array conv2d(const py::array& input, const PackedWeight& weight, const std::optional<py::array>& bias,
                 const Pair& stride, const Sides& padding, const Pair& dilation, const std::string& algorithm,
                 const std::string& activation, float slope, const std::optional<py::array>& residual) {
  Conv2dArgs args{};
  args.src = image_view(input, "input");
  args.weight = &weight;
  if (weight.slices() != 0) throw std::invalid_argument("conv2d: the weight was packed for volumes");
  const Conv2dDesc desc =
      describe_conv2d(args.src.shape, weight.shape(), window_of(stride, padding, dilation), weight.groups());
  const OptionalVector bias_v(bias, desc.o, "bias");
  args.epilogue.bias = bias_v.data();
  args.epilogue.activation = activation_from_name(activation);
  args.epilogue.slope = slope;
  const Conv2dAlgorithm& chosen = choose_conv2d(desc, algorithm, weight.layout());
  return convolved("conv2d", {desc.n, desc.o, desc.oh, desc.ow}, residual, args,
                   [&] { run_conv2d(chosen, desc, args); });
}

// Volumes as images of D * H rows. Weights: one, or for Winograd's algorithms one for each slice of the kernel.
py::array conv3d(const py::array& input, const Conv3dDesc& geometry,
                 const std::vector<std::shared_ptr<const PackedWeight>>& weights, const std::optional<py::array>& bias,
                 const std::string& algorithm, const std::string& activation, float slope,
                 const std::optional<py::array>& residual) {
  Conv2dArgs args{};
  args.src = image_view(input, "input");
  const bool whole = weights.size() == 1;
  std::vector<const PackedWeight*> slices;
  Shape4 filters = geometry.filters();
  if (!whole) filters[2] = geometry.slice.kh();
  bool fit = args.src.shape == geometry.source() && (whole || static_cast<int64_t>(weights.size()) == geometry.kernel);
  for (const auto& weight : weights) {
    slices.push_back(weight.get());
    fit = fit && weight->shape() == filters && weight->groups() == geometry.slice.groups &&
          weight->layout() == weights[0]->layout();
  }
  if (!fit) throw std::invalid_argument("conv3d: input or weight does not fit the geometry");
  args.weight = slices[0];
  const OptionalVector bias_v(bias, geometry.slice.o, "bias");
  args.epilogue.bias = bias_v.data();
  args.epilogue.activation = activation_from_name(activation);
  args.epilogue.slope = slope;
  const Conv3dChoice choice = choose_conv3d(geometry, algorithm, args.weight->layout());
  const bool by_slices = !choice.images && choice.algorithm != nullptr;
  if (by_slices == whole && geometry.kernel > 1)
    throw std::invalid_argument(
        "conv3d: weight is packed slice by slice for Winograd's algorithms, and for them alone");
  return convolved("conv3d", geometry.result(), residual, args, [&] {
    by_slices ? run_conv3d_slices(geometry, *choice.algorithm, slices.data(), args) : run_conv3d(choice, args);
  });
}

// A view of the output's gradient; std::invalid_argument unless it has the output's shape.
ImageView gradient_view(const py::array& gradient, const Conv2dDesc& d) {
  const ImageView view = image_view(gradient, "gradient");
  const Shape4 shape{d.n, d.o, d.oh, d.ow};
  if (view.shape != shape)
    throw std::invalid_argument("conv2d: the gradient has shape " + to_string(view.shape) + ", but the output has " +
                                to_string(shape));
  return view;
}

py::array conv2d_input_gradient(const py::array& gradient, const py::array& weight, const Shape4& input,
                                const Pair& stride, const Sides& padding, const Pair& dilation, int64_t groups) {
  const ImageView filters = image_view(weight, "weight");
  const Conv2dDesc d = describe_conv2d(input, filters.shape, window_of(stride, padding, dilation), groups);
  const ImageView src = gradient_view(gradient, d);
  py::array dst = new_image(input);
  float* to = data_of(dst);
  const GilRelease release;
  run_conv2d_input_gradient(d, src, filters, to);
  return dst;
}

py::array conv2d_weight_gradient(const py::array& gradient, const py::array& input, const Shape4& weight,
                                 const Pair& stride, const Sides& padding, const Pair& dilation, int64_t groups) {
  const ImageView image = image_view(input, "input");
  const Conv2dDesc d = describe_conv2d(image.shape, weight, window_of(stride, padding, dilation), groups);
  const ImageView src = gradient_view(gradient, d);
  py::array dst = new_array({weight[0], weight[1], weight[2], weight[3]});
  float* to = data_of(dst);
  const GilRelease release;
  run_conv2d_weight_gradient(d, src, image, to);
  return dst;
}

py::array conv2d_bias_gradient(const py::array& gradient) {
  const ImageView src = image_view(gradient, "gradient");
  py::array dst = new_array({src.shape[1]});
  float* to = data_of(dst);
  const GilRelease release;
  run_conv2d_bias_gradient(src, to);
  return dst;
}

// One number for each output channel of a weight.
using PyFactors = py::array_t<double, py::array::c_style | py::array::forcecast>;

// (O, C / groups, KH, KW), with KD before KH for volumes.
std::vector<py::ssize_t> sizes_of(const PackedWeight& weight) {
  const auto [o, i, kh, kw] = weight.shape();
  if (weight.slices() == 0) return {o, i, kh, kw};
  return {o, i, weight.slices(), kh / weight.slices(), kw};
}

}  // namespace

void bind_conv2d(py::module_& m) {
  py::class_<Conv2dDesc>(m, "Conv2dGeometry")
      .def("__init__",
           constructor([](const Shape4& input, const Shape4& weight, const Pair& stride, const Sides& padding,
                          const Pair& dilation, int64_t groups) {
             const Window window = window_of(stride, padding, dilation);
             return std::make_unique<Conv2dDesc>(describe_conv2d(input, weight, window, groups));
           }),
           NewStyle(), py::arg("input"), py::arg("weight"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
           py::arg("groups"))
      .def_property_readonly("input", [](const Conv2dDesc& d) { return py::make_tuple(d.n, d.c, d.h, d.w); })
      .def_property_readonly("weight",
                             [](const Conv2dDesc& d) { return py::make_tuple(d.o, d.c_per_group(), d.kh(), d.kw()); })
      .def_property_readonly("shape", [](const Conv2dDesc& d) { return py::make_tuple(d.n, d.o, d.oh, d.ow); })
      .def_property_readonly("stride", [](const Conv2dDesc& d) { return py::tuple(py::cast(d.window.stride)); })
      .def_property_readonly("padding", [](const Conv2dDesc& d) { return py::tuple(py::cast(sides_of(d.window))); })
      .def_property_readonly("dilation", [](const Conv2dDesc& d) { return py::tuple(py::cast(d.window.dilation)); })
      .def_readonly("groups", &Conv2dDesc::groups)
      .def_property_readonly("is_pointwise",
                             [](const Conv2dDesc& d) {
                               return d.groups == 1 && d.window.stride == Pair{1, 1} && refuse_pointwise(d).empty();
                             })
      .def_property_readonly("is_depthwise", [](const Conv2dDesc& d) { return refuse_depthwise(d).empty(); })
      .def_property_readonly("multiply_adds", &Conv2dDesc::multiply_adds)
      .def("cheapest", &cheapest_conv2d, py::arg("winograd"))
      .def("candidates", &conv2d_candidates, py::arg("winograd"))
      .def("explain", &explain_conv2d, py::arg("algorithm"));
  py::class_<Conv3dDesc>(m, "Conv3dGeometry")
      .def("__init__",
           constructor([](const Shape5& input, const Shape5& weight, const Triple& stride, const Faces& padding,
                          const Triple& dilation, int64_t groups) {
             return std::make_unique<Conv3dDesc>(describe_conv3d(input, weight, stride, padding, dilation, groups));
           }),
           NewStyle(), py::arg("input"), py::arg("weight"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
           py::arg("groups"))
      .def_property_readonly(
          "shape",
          [](const Conv3dDesc& d) { return py::make_tuple(d.slice.n, d.slice.o, d.od, d.slice.oh, d.slice.ow); })
      .def_property_readonly("multiply_adds", &Conv3dDesc::multiply_adds)
      .def("cheapest", &cheapest_conv3d, py::arg("winograd"))
      .def("candidates", &conv3d_candidates, py::arg("winograd"))
      .def("explain", &explain_conv3d, py::arg("algorithm"));
  py::class_<PackedWeight, std::shared_ptr<PackedWeight>>(m, "PackedWeight")
      .def("__init__",
           constructor([](const py::array& weight, int64_t groups, const std::string& algorithm,
                          const std::optional<PyFactors>& factor, bool flat, int64_t slices) {
             const ImageView view = image_view(weight, "weight");
             const WeightLayout layout = conv2d_weight_layout(view.shape, groups, algorithm);
             if (factor && (factor->ndim() != 1 || factor->shape(0) != view.shape[0]))
               throw std::invalid_argument("conv2d: there must be one factor for each output channel");
             const GilRelease release;
             return std::make_shared<PackedWeight>(view, groups, layout, factor ? factor->data() : nullptr, flat,
                                                   slices);
           }),
           NewStyle(), py::arg("weight"), py::arg("groups"), py::arg("algorithm"), py::arg("factor") = py::none(),
           py::arg("flat") = false, py::arg("slices") = 0)
      .def_static(
          "over",
          [](const py::array& packed, const Shape4& shape, int64_t groups, const std::string& algorithm,
             int64_t slices) {
            const Tensor numbers = tensor_view(packed, "packed");
            if (numbers.dtype != DType::f32 || numbers.rank != 1 || numbers.strides[0] != 1)
              throw std::invalid_argument("conv2d: packed weights must be contiguous float32");
            return std::make_shared<PackedWeight>(shape, groups, conv2d_weight_layout(shape, groups, algorithm), slices,
                                                  static_cast<const float*>(numbers.data), numbers.shape[0],
                                                  std::make_shared<const py::array>(packed));
          },
          py::arg("packed"), py::arg("shape"), py::arg("groups"), py::arg("algorithm"), py::arg("slices") = 0)
      .def_property_readonly("packed",
                             [](const std::shared_ptr<PackedWeight>& w) {
                               py::array_t<float> numbers({w->count()}, {sizeof(float)}, w->data(), py::cast(w));
                               numbers.attr("setflags")(py::arg("write") = false);
                               return numbers;
                             })
      .def_property_readonly("layout", [](const PackedWeight& w) { return layout_name(w.layout()); })
      .def_property_readonly("shape", [](const PackedWeight& w) { return py::tuple(py::cast(sizes_of(w))); })
      .def_property_readonly("groups", &PackedWeight::groups)
      .def_property_readonly("isa", [](const PackedWeight& w) { return isa_name(w.kernels().isa); })
      .def_property_readonly("nbytes", &PackedWeight::bytes)
      .def_property_readonly("reversible", &PackedWeight::reversible)
      .def("unpack", [](const PackedWeight& w) {
        py::array dst = new_array(sizes_of(w));
        float* to = data_of(dst);
        const GilRelease release;
        w.unpack(to);
        return dst;
      });

  m.def("conv2d", &conv2d, py::arg("input"), py::arg("weight"), py::arg("bias").none(true), py::arg("stride"),
        py::arg("padding"), py::arg("dilation"), py::arg("algorithm"), py::arg("activation"), py::arg("slope"),
        py::arg("residual").none(true));
  m.def("conv3d", &conv3d, py::arg("input"), py::arg("geometry"), py::arg("weights"), py::arg("bias").none(true),
        py::arg("algorithm"), py::arg("activation"), py::arg("slope"), py::arg("residual").none(true));
  m.def("conv2d_input_gradient", &conv2d_input_gradient, py::arg("gradient"), py::arg("weight"), py::arg("input"),
        py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"));
  m.def("conv2d_weight_gradient", &conv2d_weight_gradient, py::arg("gradient"), py::arg("input"), py::arg("weight"),
        py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"));
  m.def("conv2d_bias_gradient", &conv2d_bias_gradient, py::arg("gradient"));
  m.def(
      "conv2d_shape",
      [](const Shape4& input, const Shape4& weight, const Pair& stride, const Sides& padding, const Pair& dilation,
         int64_t groups) {
        const Conv2dDesc d = describe_conv2d(input, weight, window_of(stride, padding, dilation), groups);
        return py::make_tuple(d.n, d.o, d.oh, d.ow);
      },
      py::arg("input"), py::arg("weight"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
      py::arg("groups"));
  m.def(
      "explain_conv2d",
      [](const Shape4& input, const Shape4& weight, const Pair& stride, const Sides& padding, const Pair& dilation,
         int64_t groups, const std::string& algorithm) {
        return explain_conv2d(describe_conv2d(input, weight, window_of(stride, padding, dilation), groups), algorithm);
      },
      py::arg("input"), py::arg("weight"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
      py::arg("groups"), py::arg("algorithm"));
  m.def("conv2d_algorithms", [] {
    std::vector<std::string> names;
    for (const Conv2dAlgorithm& a : conv2d_algorithms()) names.emplace_back(a.name);
    return names;
  });
}

}  // namespace convlane
