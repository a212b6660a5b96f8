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
