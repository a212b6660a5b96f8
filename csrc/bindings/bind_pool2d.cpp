// Pooling.
#include "bindings/arrays.h"
#include "ops/pool2d.h"

namespace convlane {
namespace {

py::array pool(const Pool2dDesc& desc, const ImageView& src) {
  py::array dst = new_image(desc.shape());
  float* to = data_of(dst);
  py::gil_scoped_release release;
  run_pool2d(desc, src, to, desc.input[1], nullptr);
  return dst;
}

// The maxima, or a pair of them and their indices.
py::object max_pool(const Pool2dDesc& desc, const ImageView& src, bool return_indices) {
  if (!return_indices) return pool(desc, src);
  py::array dst = new_image(desc.shape()), indices = new_index_image(desc.shape());
  float* to = data_of(dst);
  auto* places = static_cast<int64_t*>(indices.mutable_data());
  {
    py::gil_scoped_release release;
    run_pool2d(desc, src, to, desc.input[1], places);
  }
  return py::make_tuple(dst, indices);
}

// A gradient must have the shape of what it is the gradient of.
ImageView checked_gradient(const py::array& gradient, const Shape4& shape) {
  const ImageView view = image_view(gradient, "gradient");
  if (view.shape != shape)
    throw std::invalid_argument("pooling: the gradient has shape " + to_string(view.shape) + ", expected " +
                                to_string(shape));
  return view;
}

py::array max_pool_gradient(const py::array& gradient, const py::array_t<int64_t>& indices, const Shape4& input) {
  if (indices.ndim() != 4) throw std::invalid_argument("pooling: indices must be (N, C, OH, OW)");
  Shape4 shape;
  for (int d = 0; d < 4; ++d) shape[d] = indices.shape(d);
  const ImageView view = checked_gradient(gradient, shape);
  if (shape[0] != input[0] || shape[1] != input[1])
    throw std::invalid_argument("pooling: indices " + to_string(shape) + " do not belong to input " + to_string(input));
  const int64_t pixels = checked_mul(input[2], input[3]);
  const py::array_t<int64_t, py::array::c_style> dense(py::array(indices.attr("transpose")(0, 2, 3, 1)));
  const int64_t* places = dense.data();
  for (int64_t i = 0; i < dense.size(); ++i)
    if (places[i] < 0 || places[i] >= pixels)
      throw std::invalid_argument("pooling: an index lies outside of the input");
  py::array dst = new_image(input);
  float* to = data_of(dst);
  py::gil_scoped_release release;
  run_max_pool2d_gradient(view, places, input, to);
  return dst;
}

py::array avg_pool_gradient(const Pool2dDesc& desc, const py::array& gradient) {
  const ImageView view = checked_gradient(gradient, desc.shape());
  py::array dst = new_image(desc.input);
  float* to = data_of(dst);
  py::gil_scoped_release release;
  run_avg_pool2d_gradient(desc, view, to);
  return dst;
}

}  // namespace

void bind_pool2d(py::module_& m) {
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
  m.def("max_pool2d_gradient", &max_pool_gradient, py::arg("gradient"), py::arg("indices"), py::arg("input"));
  m.def(
      "avg_pool2d_gradient",
      [](const py::array& gradient, const Shape4& input, const Pair& kernel, const Pair& stride, const Sides& padding,
         bool ceil_mode, bool count_padding, std::optional<int64_t> divisor) {
        const Window window = window_of(stride, padding, {1, 1}, kernel);
        Pool2dDesc desc = describe_pool2d("avg_pool2d", Pooling::average, input, window, ceil_mode);
        desc.count_padding = count_padding;
        desc.divisor = divisor;
        return avg_pool_gradient(desc, gradient);
      },
      py::arg("gradient"), py::arg("input"), py::arg("kernel"), py::arg("stride"), py::arg("padding"),
      py::arg("ceil_mode"), py::arg("count_include_pad"), py::arg("divisor_override").none(true));
  m.def(
      "adaptive_avg_pool2d_gradient",
      [](const py::array& gradient, const Shape4& input, const Pair& output) {
        return avg_pool_gradient(describe_adaptive_pool2d("pooling", Pooling::average, input, output), gradient);
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
