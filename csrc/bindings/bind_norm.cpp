// Batch, layer and local response normalisation.
#include "bindings/arrays.h"
#include "ops/activation.h"
#include "ops/norm.h"
#include "runtime/threads.h"

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
  const GilRelease release;
  const BatchNorm norm(channels, mean.data(), variance.data(), weight_v.data(), bias_v.data(), eps);
  norm.run(channels_last_or_into(src, to), src.pixels(), to);
  return dst;
}

// Memory of a residual or an output that must have the images' shape; null without one.
class OptionalImage {
 public:
  OptionalImage(const std::optional<py::array>& array, const Shape4& shape, const std::string& name) {
    if (!array) return;
    view_ = image_view(*array, name.c_str());
    if (view_->shape != shape)
      throw std::invalid_argument(name + " must have shape " + to_string(shape) + ", got " + to_string(view_->shape));
  }
  // Converts if needed; without the GIL.
  const float* dense() {
    if (view_) return converted_.emplace(*view_).view().data;
    return nullptr;
  }
  explicit operator bool() const { return view_.has_value(); }

 private:
  std::optional<ImageView> view_;
  std::optional<ChannelsLast> converted_;
};

using Doubles = py::array_t<double, py::array::c_style>;

const double* doubles_of(const Doubles& vector, int64_t size, const char* name) {
  if (vector.ndim() != 1 || vector.shape(0) != size)
    throw std::invalid_argument(std::string("batch_norm: ") + name + " must have shape (" + std::to_string(size) +
                                ",), got " + to_string(vector.shape(), static_cast<int>(vector.ndim())));
  return vector.data();
}

// The mean and the biased variance of every channel.
py::tuple batch_norm_moments(const py::array& input) {
  const ImageView src = image_view(input, "batch_norm: input");
  const int64_t channels = src.shape[1];
  if (src.pixels() == 0) throw std::invalid_argument("batch_norm: there are no values to take statistics of");
  Doubles mean(channels), variance(channels);
  double* mean_to = mean.mutable_data();
  double* variance_to = variance.mutable_data();
  {
    const GilRelease release;
    const ChannelsLast converted(src);
    run_moments(converted.view().data, src.pixels(), channels, mean_to, variance_to);
  }
  return py::make_tuple(mean, variance);
}

// With statistics in double, a residual and an activation.
py::array batch_norm_apply(const py::array& input, const Doubles& mean, const Doubles& variance,
                           const std::optional<py::array>& weight, const std::optional<py::array>& bias, double eps,
                           const std::string& name, float slope, const std::optional<py::array>& residual) {
  const ImageView src = image_view(input, "batch_norm: input");
  const int64_t channels = src.shape[1];
  const double* mean_of = doubles_of(mean, channels, "mean");
  const double* variance_of = doubles_of(variance, channels, "var");
  const OptionalVector weight_v(weight, channels, "batch_norm: weight"), bias_v(bias, channels, "batch_norm: bias");
  OptionalImage added(residual, src.shape, "batch_norm: residual");
  NormTail tail{activation_from_name(name), slope, nullptr};
  py::array dst = new_image(src.shape);
  float* to = data_of(dst);
  const GilRelease release;
  const float* from = channels_last_or_into(src, to);
  tail.residual = added.dense();
  const BatchNorm norm(channels, mean_of, variance_of, weight_v.data(), bias_v.data(), eps);
  norm.run(from, src.pixels(), to, tail);
  return dst;
}

// Also returns the mean and the biased variance, in double.
py::tuple batch_norm_train(const py::array& input, const std::optional<py::array>& weight,
                           const std::optional<py::array>& bias, double eps, const std::string& name, float slope,
                           const std::optional<py::array>& residual) {
  const ImageView src = image_view(input, "batch_norm: input");
  const int64_t channels = src.shape[1];
  if (src.pixels() == 0) throw std::invalid_argument("batch_norm: there are no values to take statistics of");
  const OptionalVector weight_v(weight, channels, "batch_norm: weight"), bias_v(bias, channels, "batch_norm: bias");
  OptionalImage added(residual, src.shape, "batch_norm: residual");
  NormTail tail{activation_from_name(name), slope, nullptr};
  py::array dst = new_image(src.shape);
  py::array_t<double> mean(channels), variance(channels);
  float* to = data_of(dst);
  double* mean_to = mean.mutable_data();
  double* variance_to = variance.mutable_data();
  {
    const GilRelease release;
    const float* from = channels_last_or_into(src, to);
    tail.residual = added.dense();
    run_moments(from, src.pixels(), channels, mean_to, variance_to);
    const BatchNorm norm(channels, mean_to, variance_to, weight_v.data(), bias_v.data(), eps);
    norm.run(from, src.pixels(), to, tail);
  }
  return py::make_tuple(dst, mean, variance);
}

// The gradients of the input, the weight, the bias and the residual; None for those not requested.
py::tuple batch_norm_gradient(const py::array& input, const py::array& gradient, const Doubles& mean,
                              const Doubles& variance, const std::optional<py::array>& weight,
                              const std::optional<py::array>& bias, double eps, const std::string& name, float slope,
                              const std::optional<py::array>& output, const std::optional<py::array>& residual,
                              bool training, bool of_input, bool of_vectors, bool of_residual) {
  const ImageView src = image_view(input, "batch_norm_gradient: input");
  const int64_t channels = src.shape[1];
  if (training && src.pixels() == 0)
    throw std::invalid_argument("batch_norm_gradient: there are no values to take statistics of");
  if (output && residual) throw std::invalid_argument("batch_norm_gradient: give either output or residual, not both");
  const OptionalVector weight_v(weight, channels, "batch_norm_gradient: weight");
  const OptionalVector bias_v(bias, channels, "batch_norm_gradient: bias");
  OptionalImage of_output(gradient, src.shape, "batch_norm_gradient: gradient");
  OptionalImage kept(output ? output : residual, src.shape,
                     output ? "batch_norm_gradient: output" : "batch_norm_gradient: residual");
  BatchNormGradient g{};
  g.activation = activation_from_name(name);
  if (output) check_follows_from_output(g.activation, name, slope);
  g.rows = src.pixels();
  g.channels = channels;
  g.mean = doubles_of(mean, channels, "mean");
  g.variance = doubles_of(variance, channels, "var");
  g.weight = weight_v.data();
  g.bias = bias_v.data();
  g.eps = eps;
  g.training = training;
  g.slope = slope;
  g.kept_is_output = output.has_value();

  const auto image = [&](bool wanted, float*& to) {
    if (!wanted) return py::object(py::none());
    py::array dst = new_image(src.shape);
    to = data_of(dst);
    return py::object(std::move(dst));
  };
  const auto vector = [&](float*& to) {
    if (!of_vectors) return py::object(py::none());
    py::array dst = new_array({channels});
    to = data_of(dst);
    return py::object(std::move(dst));
  };
  py::object to_input = image(of_input, g.src_gradient), to_residual = image(of_residual, g.residual_gradient);
  py::object to_weight = vector(g.weight_gradient), to_bias = vector(g.bias_gradient);
  {
    const GilRelease release;
    const ChannelsLast converted(src);
    g.src = converted.view().data;
    g.gradient = of_output.dense();
    g.kept = kept.dense();
    run_batch_norm_gradient(g);
  }
  return py::make_tuple(to_input, to_weight, to_bias, to_residual);
}

py::array layer_norm(const py::array& input, const std::optional<py::array>& weight,
                     const std::optional<py::array>& bias, float eps, bool centered) {
  const ImageView src = image_view(input, "layer_norm: input");
  const int64_t channels = src.shape[1];
  const OptionalVector weight_v(weight, channels, "layer_norm: weight"), bias_v(bias, channels, "layer_norm: bias");
  py::array dst = new_image(src.shape);
  float* to = data_of(dst);
  const GilRelease release;
  const LayerNorm norm(channels, centered, weight_v.data(), bias_v.data(), eps);
  norm.run(channels_last_or_into(src, to), src.pixels(), to);
  return dst;
}

// The gradients of the input, the weight and the bias; None for those not requested.
py::tuple layer_norm_gradient(const py::array& input, const py::array& gradient, const std::optional<py::array>& weight,
                              float eps, bool centered, bool of_input, bool of_vectors) {
  const ImageView src = image_view(input, "layer_norm_gradient: input");
  const int64_t channels = src.shape[1];
  const OptionalVector weight_v(weight, channels, "layer_norm_gradient: weight");
  OptionalImage of_output(gradient, src.shape, "layer_norm_gradient: gradient");
  float *to_input = nullptr, *to_weight = nullptr, *to_bias = nullptr;
  py::object input_gradient = py::none(), weight_gradient = py::none(), bias_gradient = py::none();
  if (of_input) {
    py::array dst = new_image(src.shape);
    to_input = data_of(dst);
    input_gradient = std::move(dst);
  }
  if (of_vectors) {
    py::array weights = new_array({channels}), biases = new_array({channels});
    to_weight = data_of(weights);
    to_bias = data_of(biases);
    weight_gradient = std::move(weights);
    bias_gradient = std::move(biases);
  }
  {
    const GilRelease release;
    const ChannelsLast converted(src);
    run_layer_norm_gradient(converted.view().data, of_output.dense(), src.pixels(), channels, centered, weight_v.data(),
                            eps, to_input, to_weight, to_bias);
  }
  return py::make_tuple(input_gradient, weight_gradient, bias_gradient);
}

py::array local_response_norm(const py::array& input, int64_t size, float alpha, float beta, float k) {
  const ImageView src = image_view(input, "local_response_norm: input");
  const LocalResponseArgs args = describe_local_response(src.shape[1], size, alpha, beta, k);
  py::array dst = new_image(src.shape);
  float* to = data_of(dst);
  const GilRelease release;
  const int threads = num_threads();
  with_scratch([&](Scratch& scratch) { reserve_local_response(args, src.pixels(), threads, scratch); },
               [&](Scratch& scratch) {
                 run_local_response(args, channels_last_or_into(src, to), src.pixels(), to, threads, scratch);
               });
  return dst;
}

py::array local_response_norm_gradient(const py::array& input, const py::array& gradient, int64_t size, float alpha,
                                       float beta, float k) {
  const ImageView src = image_view(input, "local_response_norm_gradient: input");
  OptionalImage of_output(gradient, src.shape, "local_response_norm_gradient: gradient");
  py::array dst = new_image(src.shape);
  float* to = data_of(dst);
  const GilRelease release;
  const ChannelsLast converted(src);
  run_local_response_gradient(converted.view().data, of_output.dense(), src.pixels(), src.shape[1], size, alpha, beta,
                              k, to);
  return dst;
}

}  // namespace

void bind_norm(py::module_& m) {
  m.def("batch_norm", &batch_norm, py::arg("input"), py::arg("running_mean"), py::arg("running_var"),
        py::arg("weight").none(true), py::arg("bias").none(true), py::arg("eps"));
  m.def("batch_norm_moments", &batch_norm_moments, py::arg("input"));
  m.def("batch_norm_apply", &batch_norm_apply, py::arg("input"), py::arg("mean"), py::arg("var"),
        py::arg("weight").none(true), py::arg("bias").none(true), py::arg("eps"), py::arg("activation"),
        py::arg("slope"), py::arg("residual").none(true));
  m.def("batch_norm_train", &batch_norm_train, py::arg("input"), py::arg("weight").none(true),
        py::arg("bias").none(true), py::arg("eps"), py::arg("activation") = "none", py::arg("slope") = 0.0f,
        py::arg("residual").none(true) = py::none());
  m.def("batch_norm_gradient", &batch_norm_gradient, py::arg("input"), py::arg("gradient"), py::arg("mean"),
        py::arg("var"), py::arg("weight").none(true), py::arg("bias").none(true), py::arg("eps"),
        py::arg("activation") = "none", py::arg("slope") = 0.0f, py::arg("output").none(true) = py::none(),
        py::arg("residual").none(true) = py::none(), py::arg("training") = true, py::arg("of_input") = true,
        py::arg("of_vectors") = true, py::arg("of_residual") = false);
  m.def("layer_norm", &layer_norm, py::arg("input"), py::arg("weight").none(true), py::arg("bias").none(true),
        py::arg("eps"), py::arg("centered") = true);
  m.def("layer_norm_gradient", &layer_norm_gradient, py::arg("input"), py::arg("gradient"),
        py::arg("weight").none(true), py::arg("eps"), py::arg("centered"), py::arg("of_input"), py::arg("of_vectors"));
  m.def("local_response_norm", &local_response_norm, py::arg("input"), py::arg("size"), py::arg("alpha"),
        py::arg("beta"), py::arg("k"));
  m.def("local_response_norm_gradient", &local_response_norm_gradient, py::arg("input"), py::arg("gradient"),
        py::arg("size"), py::arg("alpha"), py::arg("beta"), py::arg("k"));
}

}  // namespace convlane
