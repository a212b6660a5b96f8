// The fully connected layer.
#include "bindings/arrays.h"
#include "ops/activation.h"
#include "ops/linear.h"

namespace convlane {
namespace {

py::array linear(const py::array& input, const PackedWeight& weight, const std::optional<py::array>& bias,
                 const std::string& activation, float slope) {
  check_float32(input, "input");
  const int64_t in = weight.shape()[1], out = weight.shape()[0];
  if (weight.layout() != WeightLayout::panels || weight.groups() != 1 || weight.shape()[2] * weight.shape()[3] != 1)
    throw std::invalid_argument("linear: the packed weight belongs to a convolution");
  if (input.ndim() != 2 || input.shape(1) != in || (in > 1 && input.strides(1) != sizeof(float)))
    throw std::invalid_argument("linear: expected contiguous rows of " + std::to_string(in) + " features");
  const OptionalVector bias_v(bias, out, "bias");
  Epilogue epilogue;
  epilogue.bias = bias_v.data();
  epilogue.activation = activation_from_name(activation);
  epilogue.slope = slope;
  const int64_t rows = input.shape(0), stride = input.strides(0) / static_cast<py::ssize_t>(sizeof(float));
  const float* src = static_cast<const float*>(input.data());
  py::array dst = new_array({rows, out});
  float* to = data_of(dst);
  py::gil_scoped_release release;
  run_linear(src, rows, stride, weight, epilogue, to);
  return dst;
}

}  // namespace

void bind_linear(py::module_& m) {
  m.def("linear", &linear, py::arg("input"), py::arg("weight"), py::arg("bias").none(true), py::arg("activation"),
        py::arg("slope"));
}

}  // namespace convlane
