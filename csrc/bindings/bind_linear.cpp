// The fully connected layer.
#include "bindings/arrays.h"
#include "ops/activation.h"
#include "ops/linear.h"
#include "runtime/threads.h"

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
  const GilRelease release;
  const LinearArgs args{src, rows, stride, &weight, epilogue, to, num_threads()};
  with_scratch([&](Scratch& scratch) { reserve_linear(args, scratch); },
               [&](Scratch& scratch) { run_linear(args, scratch); });
  return dst;
}

// Rows of `features` contiguous floats; the distance between them goes to `stride`.
const float* rows_of(const py::array& array, const char* name, int64_t features, int64_t& stride) {
  check_float32(array, name);
  const bool apart = array.size() > 0 && features > 1 && array.strides(1) != sizeof(float);
  if (array.ndim() != 2 || array.shape(1) != features || apart)
    throw std::invalid_argument("linear: expected " + std::string(name) + " with contiguous rows of " +
                                std::to_string(features) + " features");
  stride = array.strides(0) / static_cast<py::ssize_t>(sizeof(float));
  return static_cast<const float*>(array.data());
}

Pair dense_weight(const py::array& weight) {
  check_float32(weight, "weight");
  if (weight.ndim() != 2 || (weight.flags() & py::array::c_style) == 0)
    throw std::invalid_argument("linear: expected a contiguous weight (O, I)");
  if (weight.size() == 0) throw std::invalid_argument("linear: the weight is empty");
  return {weight.shape(0), weight.shape(1)};
}

py::array linear_unpacked(const py::array& input, const py::array& weight, const std::optional<py::array>& bias,
                          const std::string& activation, float slope) {
  const Pair shape = dense_weight(weight);
  int64_t stride;
  const float* src = rows_of(input, "input", shape[1], stride);
  const OptionalVector bias_v(bias, shape[0], "bias");
  Epilogue epilogue;
  epilogue.bias = bias_v.data();
  epilogue.activation = activation_from_name(activation);
  epilogue.slope = slope;
  py::array dst = new_array({input.shape(0), shape[0]});
  float* to = data_of(dst);
  const GilRelease release;
  run_linear_unpacked(src, input.shape(0), stride, static_cast<const float*>(weight.data()), shape, epilogue, to);
  return dst;
}

py::array linear_input_gradient(const py::array& gradient, const py::array& weight) {
  const Pair shape = dense_weight(weight);
  int64_t stride;
  const float* src = rows_of(gradient, "gradient", shape[0], stride);
  py::array dst = new_array({gradient.shape(0), shape[1]});
  float* to = data_of(dst);
  const GilRelease release;
  run_linear_input_gradient(src, gradient.shape(0), stride, static_cast<const float*>(weight.data()), shape, to);
  return dst;
}

}  // namespace

void bind_linear(py::module_& m) {
  m.def("linear_unpacked", &linear_unpacked, py::arg("input"), py::arg("weight"), py::arg("bias").none(true),
        py::arg("activation"), py::arg("slope"));
  m.def("linear_input_gradient", &linear_input_gradient, py::arg("gradient"), py::arg("weight"));
  m.def("linear", &linear, py::arg("input"), py::arg("weight"), py::arg("bias").none(true), py::arg("activation"),
        py::arg("slope"));
}

}  // namespace convlane
