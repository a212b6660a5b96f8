// Pooling.
#include "bindings/arrays.h"
#include "bindings/construct.h"
#include "ops/conv2d_pool.h"
#include "ops/gather.h"
#include "ops/pool2d.h"

namespace convlane {
namespace {

Pooling pooling_from_name(const std::string& name) {
  if (name == "max") return Pooling::max;
  if (name == "average") return Pooling::average;
  if (name == "power") return Pooling::power;
  throw std::invalid_argument("pooling: must be max, average or power, got '" + name + "'");
}

py::array pool(const Pool2dDesc& desc, const ImageView& src) {
  py::array dst = new_image(desc.shape());
  float* to = data_of(dst);
  const GilRelease release;
  run_pool2d(desc, src, to, desc.input[1], nullptr);
  return dst;
}

// The maxima, or a pair of the maxima and their indices.
py::object max_pool(const Pool2dDesc& desc, const ImageView& src, bool return_indices) {
  if (!return_indices) return pool(desc, src);
  py::array dst = new_image(desc.shape()), indices = new_index_image(desc.shape());
  float* to = data_of(dst);
  auto* indices_to = static_cast<int64_t*>(indices.mutable_data());
  {
    const GilRelease release;
    run_pool2d(desc, src, to, desc.input[1], indices_to);
  }
  return py::make_tuple(dst, indices);
}

// The maxima and their indices in 32 bits, which the gradient reads.
py::tuple max_pool_with_indices32(const Pool2dDesc& desc, const ImageView& src) {
  py::array dst = new_image(desc.shape()), indices = new_index32_image(desc.shape());
  float* to = data_of(dst);
  auto* indices_to = static_cast<std::int32_t*>(indices.mutable_data());
  {
    const GilRelease release;
    run_pool2d(desc, src, to, desc.input[1], nullptr, indices_to);
  }
  return py::make_tuple(dst, indices);
}

// The input's gradient. `indices` are those of max_pool_with_indices32, or none for averages.
py::array pool_gradient(const Pool2dDesc& desc, const py::array& gradient,
                        const std::optional<py::array_t<std::int32_t>>& indices = std::nullopt) {
  const ImageView view = image_view(gradient, "gradient");
  if (view.shape != desc.shape())
    throw std::invalid_argument("pooling: the gradient has shape " + to_string(view.shape) + ", expected " +
                                to_string(desc.shape()));
  if (indices) {
    const Shape4 dense = channels_last_view(nullptr, desc.shape()).strides;
    for (int d = 0; d < 4; ++d)
      if (indices->ndim() != 4 || indices->shape(d) != desc.shape()[d] ||
          (indices->shape(d) > 1 && indices->size() > 0 && indices->strides(d) != 4 * dense[d]))
        throw std::invalid_argument("pooling: the indices are not those of output " + to_string(desc.shape()));
  }
  py::array dst = new_image(desc.input);
  float* to = data_of(dst);
  const std::int32_t* from = indices ? indices->data() : nullptr;
  const GilRelease release;
  run_pool2d_gradient(desc, view, from, to);
  return dst;
}

// The data of indices that are dense and channels last; sets `shape` to theirs.
const int64_t* indices_of(const py::array& indices, Shape4& shape) {
  const Tensor view = tensor_view(indices, "indices");
  bool fits = view.dtype == DType::i64 && view.rank == 4;
  if (fits) {
    shape = {view.shape[0], view.shape[1], view.shape[2], view.shape[3]};
    const Shape4 dense = channels_last_view(nullptr, shape).strides;
    for (int d = 0; d < 4; ++d) fits = fits && (shape[d] == 1 || view.count() == 0 || view.strides[d] == dense[d]);
  }
  if (!fits) throw std::invalid_argument("pooling: indices must be int64 images, dense and channels last");
  return static_cast<const int64_t*>(view.data);
}

// From indices in planes (N * D, C, h, w), and in images (N, C, OD, h * w) whose columns are pooled planes.
py::array indices_in_volumes(const py::array& within, const py::array& rows, int64_t plane) {
  Shape4 planes, shape;
  const int64_t *in_planes = indices_of(within, planes), *in_rows = indices_of(rows, shape);
  const int64_t volumes = std::max<int64_t>(shape[0], 1), depth = planes[0] / volumes;
  if (depth * shape[0] != planes[0] || planes[1] != shape[1] || planes[2] * planes[3] != shape[3])
    throw std::invalid_argument("pooling: indices " + to_string(planes) + " and " + to_string(shape) + " do not fit");
  const int64_t count = channels_last_view(nullptr, shape).count();
  check_indices(in_rows, count, depth * shape[3], "pooling");
  py::array dst = new_index_image(shape);
  auto* to = static_cast<int64_t*>(dst.mutable_data());
  const GilRelease release;
  run_indices_in_volumes(in_planes, depth, plane, in_rows, shape, to);
  return dst;
}

}  // namespace

void bind_pool2d(py::module_& m) {
  py::class_<Pool2dDesc>(m, "PoolGeometry")
      .def("__init__",
           constructor([](const char* op, const std::string& kind, const Shape4& input, const Pair& kernel,
                          const Pair& stride, const Sides& padding, const Pair& dilation, bool ceil_mode,
                          bool count_padding, std::optional<int64_t> divisor, float exponent) {
             const Window window = window_of(stride, padding, dilation, kernel);
             Pool2dDesc desc = describe_pool2d(op, pooling_from_name(kind), input, window, ceil_mode);
             desc.count_padding = count_padding;
             desc.divisor = divisor;
             desc.exponent = exponent;
             return std::make_unique<Pool2dDesc>(desc);
           }),
           NewStyle(), py::arg("op"), py::arg("kind"), py::arg("input"), py::arg("kernel"), py::arg("stride"),
           py::arg("padding"), py::arg("dilation"), py::arg("ceil_mode"), py::arg("count_include_pad") = true,
           py::arg("divisor_override") = std::optional<int64_t>(), py::arg("norm_type") = 0.0f)
      .def_static(
          "adaptive",
          [](const char* op, const std::string& kind, const Shape4& input, const Pair& output) {
            return describe_adaptive_pool2d(op, pooling_from_name(kind), input, output);
          },
          py::arg("op"), py::arg("kind"), py::arg("input"), py::arg("output"))
      .def_property_readonly("shape", [](const Pool2dDesc& d) { return py::tuple(py::cast(d.shape())); })
      .def_property_readonly("kernel", [](const Pool2dDesc& d) { return py::tuple(py::cast(d.window.kernel)); })
      .def_property_readonly("stride", [](const Pool2dDesc& d) { return py::tuple(py::cast(d.window.stride)); })
      .def_property_readonly("padding", [](const Pool2dDesc& d) { return py::tuple(py::cast(sides_of(d.window))); });
  m.def(
      "may_pool_in_cache",
      [](const Conv2dDesc& convolution, const Pool2dDesc& pool) { return may_pool_in_cache(convolution, pool); },
      py::arg("convolution"), py::arg("pool"));
  m.def(
      "pooled_from",
      [](const std::string& algorithm, const Conv2dDesc& convolution, const Pool2dDesc& pool) {
        const PooledFrom from = pooled_from(find_conv2d_algorithm(algorithm), convolution, pool);
        return from == PooledFrom::bands ? "row bands" : from == PooledFrom::tiles ? "tiles" : "image";
      },
      py::arg("algorithm"), py::arg("convolution"), py::arg("pool"));

  m.def(
      "max_pool2d",
      [](const py::array& input, const Pair& kernel, const Pair& stride, const Sides& padding, const Pair& dilation,
         bool ceil_mode, bool return_indices) {
        const ImageView src = image_view(input, "input");
        const Window window = window_of(stride, padding, dilation, kernel);
        return max_pool(describe_pool2d("max_pool2d", Pooling::max, src.shape, window, ceil_mode), src, return_indices);
      },
      py::arg("input"), py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
      py::arg("ceil_mode"), py::arg("return_indices"));
  m.def("indices_in_volumes", &indices_in_volumes, py::arg("within"), py::arg("rows"), py::arg("plane"));
  m.def(
      "avg_pool2d",
      [](const py::array& input, const Pair& kernel, const Pair& stride, const Sides& padding, bool ceil_mode,
         bool count_padding, std::optional<int64_t> divisor) {
        const ImageView src = image_view(input, "input");
        const Window window = window_of(stride, padding, {1, 1}, kernel);
        Pool2dDesc desc = describe_pool2d("avg_pool2d", Pooling::average, src.shape, window, ceil_mode);
        desc.count_padding = count_padding;
        desc.divisor = divisor;
        return pool(desc, src);
      },
      py::arg("input"), py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("ceil_mode"),
      py::arg("count_include_pad"), py::arg("divisor_override").none(true));
  m.def(
      "max_pool2d_with_indices32",
      [](const py::array& input, const Pair& kernel, const Pair& stride, const Sides& padding, const Pair& dilation,
         bool ceil_mode) {
        const ImageView src = image_view(input, "input");
        const Window window = window_of(stride, padding, dilation, kernel);
        return max_pool_with_indices32(describe_pool2d("max_pool2d", Pooling::max, src.shape, window, ceil_mode), src);
      },
      py::arg("input"), py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
      py::arg("ceil_mode"));
  m.def(
      "max_pool2d_gradient",
      [](const py::array& gradient, const py::array_t<std::int32_t>& indices, const Shape4& input, const Pair& kernel,
         const Pair& stride, const Sides& padding, const Pair& dilation, bool ceil_mode) {
        const Window window = window_of(stride, padding, dilation, kernel);
        return pool_gradient(describe_pool2d("max_pool2d", Pooling::max, input, window, ceil_mode), gradient, indices);
      },
      py::arg("gradient"), py::arg("indices"), py::arg("input"), py::arg("kernel"), py::arg("stride"),
      py::arg("padding"), py::arg("dilation"), py::arg("ceil_mode"));
  m.def(
      "adaptive_max_pool2d_with_indices32",
      [](const char* op, const py::array& input, const Pair& output) {
        const ImageView src = image_view(input, "input");
        return max_pool_with_indices32(describe_adaptive_pool2d(op, Pooling::max, src.shape, output), src);
      },
      py::arg("op"), py::arg("input"), py::arg("output"));
  m.def(
      "adaptive_max_pool2d_gradient",
      [](const py::array& gradient, const py::array_t<std::int32_t>& indices, const Shape4& input, const Pair& output) {
        return pool_gradient(describe_adaptive_pool2d("pooling", Pooling::max, input, output), gradient, indices);
      },
      py::arg("gradient"), py::arg("indices"), py::arg("input"), py::arg("output"));
  m.def(
      "avg_pool2d_gradient",
      [](const py::array& gradient, const Shape4& input, const Pair& kernel, const Pair& stride, const Sides& padding,
         bool ceil_mode, bool count_padding, std::optional<int64_t> divisor) {
        const Window window = window_of(stride, padding, {1, 1}, kernel);
        Pool2dDesc desc = describe_pool2d("avg_pool2d", Pooling::average, input, window, ceil_mode);
        desc.count_padding = count_padding;
        desc.divisor = divisor;
        return pool_gradient(desc, gradient);
      },
      py::arg("gradient"), py::arg("input"), py::arg("kernel"), py::arg("stride"), py::arg("padding"),
      py::arg("ceil_mode"), py::arg("count_include_pad"), py::arg("divisor_override").none(true));
  m.def(
      "adaptive_avg_pool2d_gradient",
      [](const py::array& gradient, const Shape4& input, const Pair& output) {
        return pool_gradient(describe_adaptive_pool2d("pooling", Pooling::average, input, output), gradient);
      },
      py::arg("gradient"), py::arg("input"), py::arg("output"));
  m.def(
      "lp_pool2d",
      [](const py::array& input, float exponent, const Pair& kernel, const Pair& stride, bool ceil_mode) {
        const ImageView src = image_view(input, "input");
        const Window window = window_of(stride, {0, 0, 0, 0}, {1, 1}, kernel);
        Pool2dDesc desc = describe_pool2d("lp_pool2d", Pooling::power, src.shape, window, ceil_mode);
        desc.exponent = exponent;
        return pool(desc, src);
      },
      py::arg("input"), py::arg("norm_type"), py::arg("kernel"), py::arg("stride"), py::arg("ceil_mode"));
  m.def(
      "adaptive_avg_pool2d",
      [](const char* op, const py::array& input, const Pair& output) {
        const ImageView src = image_view(input, "input");
        return pool(describe_adaptive_pool2d(op, Pooling::average, src.shape, output), src);
      },
      py::arg("op"), py::arg("input"), py::arg("output"));
  m.def(
      "adaptive_max_pool2d",
      [](const char* op, const py::array& input, const Pair& output, bool return_indices) {
        const ImageView src = image_view(input, "input");
        return max_pool(describe_adaptive_pool2d(op, Pooling::max, src.shape, output), src, return_indices);
      },
      py::arg("op"), py::arg("input"), py::arg("output"), py::arg("return_indices"));
  m.def(
      "pool2d_shape",
      [](const char* op, const Shape4& input, const Pair& kernel, const Pair& stride, const Sides& padding,
         const Pair& dilation, bool ceil_mode) {
        const Window window = window_of(stride, padding, dilation, kernel);
        return py::tuple(py::cast(describe_pool2d(op, Pooling::max, input, window, ceil_mode).shape()));
      },
      py::arg("op"), py::arg("input"), py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
      py::arg("ceil_mode"));
  m.def(
      "adaptive_pool2d_shape",
      [](const char* op, const Shape4& input, const Pair& output) {
        return py::tuple(py::cast(describe_adaptive_pool2d(op, Pooling::max, input, output).shape()));
      },
      py::arg("op"), py::arg("input"), py::arg("output"));
}

}  // namespace convlane
