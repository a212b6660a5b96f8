// Batch normalisation and local response normalisation.
#include "bindings/arrays.h"
#include "ops/norm.h"

namespace convlane {
namespace {

py::array batch_norm(const py::array& input, const py::array& running_mean, const py::array& running_var,
                     const std::optional<py::array>& weight, const std::optional<py::array>& bias, double eps) {
  const ImageView src = image_view(input, "batch_norm: input");
  const int64_t channels = src.shape[1];
  const OptionalVector mean(running_mean, channels, "batch_norm: running_mean");
  const OptionalVector variance(running_var, channels, "batch_norm: running_var");
  const OptionalVector weight_v(weight, channels, "batch_norm: weight"), bias_v(bias, channels, "batch_norm: bias");
  py::array dst = new_image(src.shape);
  float* to = data_of(dst);
  py::gil_scoped_release release;
  run_batch_norm(channels_last_or_into(src, to), src.pixels(), channels, mean.data(), variance.data(), weight_v.data(),
                 bias_v.data(), eps, to);
  return dst;
}

// Also returns the mean and the biased variance, in double.
py::tuple batch_norm_train(const py::array& input, const std::optional<py::array>& weight,
                           const std::optional<py::array>& bias, double eps) {
  const ImageView src = image_view(input, "batch_norm: input");
  const int64_t channels = src.shape[1];
  if (src.pixels() == 0) throw std::invalid_argument("batch_norm: there are no values to take statistics of");
  const OptionalVector weight_v(weight, channels, "batch_norm: weight"), bias_v(bias, channels, "batch_norm: bias");
  py::array dst = new_image(src.shape);
  py::array_t<double> mean(channels), variance(channels);
  float* to = data_of(dst);
  double* mean_to = mean.mutable_data();
  double* variance_to = variance.mutable_data();
  {
    py::gil_scoped_release release;
    const float* from = channels_last_or_into(src, to);
    run_moments(from, src.pixels(), channels, mean_to, variance_to);
    run_batch_norm(from, src.pixels(), channels, mean_to, variance_to, weight_v.data(), bias_v.data(), eps, to);
  }
  return py::make_tuple(dst, mean, variance);
}

py::array local_response_norm(const py::array& input, int64_t size, float alpha, float beta, float k) {
  const ImageView src = image_view(input, "local_response_norm: input");
  py::array dst = new_image(src.shape);
  float* to = data_of(dst);
  py::gil_scoped_release release;
  run_local_response(channels_last_or_into(src, to), src.pixels(), src.shape[1], size, alpha, beta, k, to);
  return dst;
}

}  // namespace

void bind_norm(py::module_& m) {
  m.def("batch_norm", &batch_norm, py::arg("input"), py::arg("running_mean"), py::arg("running_var"),
        py::arg("weight").none(true), py::arg("bias").none(true), py::arg("eps"));
  m.def("batch_norm_train", &batch_norm_train, py::arg("input"), py::arg("weight").none(true),
        py::arg("bias").none(true), py::arg("eps"));
  m.def("local_response_norm", &local_response_norm, py::arg("input"), py::arg("size"), py::arg("alpha"),
        py::arg("beta"), py::arg("k"));
}

}  // namespace convlane
