// Group and instance normalisation.
#include "bindings/arrays.h"
#include "ops/group_norm.h"
#include "runtime/threads.h"

namespace convlane {
namespace {

// Images (N, C, H, W), processed channels last, or (N, C, L) in C order, processed as they are.
class Signals {
 public:
  Signals(const py::array& array, const char* name) : images_(array.ndim() == 4) {
    if (images_) {
      view_ = image_view(array, name);
      return;
    }
    check_float32(array, name);
    if (array.ndim() != 3 || (array.flags() & py::array::c_style) == 0)
      throw std::invalid_argument(std::string(name) + " must be (N, C, H, W), or (N, C, L) in C order");
    const int64_t n = array.shape(0), c = array.shape(1), length = array.shape(2);
    view_ = {static_cast<const float*>(array.data()), {n, c, length, 1}, {c * length, length, 1, 1}};
  }

  GroupNormShape shape(int64_t groups) const {
    return describe_group_norm(view_.shape[0], view_.shape[1], groups, view_.shape[2] * view_.shape[3], images_);
  }
  py::array new_like() const {
    return images_ ? new_image(view_.shape) : new_array({view_.shape[0], view_.shape[1], view_.shape[2]});
  }
  void check_like(const Signals& other, const char* name) const {
    if (images_ != other.images_ || view_.shape != other.view_.shape)
      throw std::invalid_argument(std::string(name) + " must have shape " + to_string(other.view_.shape) + ", got " +
                                  to_string(view_.shape));
  }
  // Its own memory or, for images in other layouts, the copy written to `to`.
  const float* dense_or_into(float* to) const { return images_ ? channels_last_or_into(view_, to) : view_.data; }
  // The same, with memory of its own; without the GIL.
  const float* dense() {
    if (!images_) return view_.data;
    return converted_.emplace(view_).view().data;
  }

 private:
  bool images_;
  ImageView view_;
  std::optional<ChannelsLast> converted_;
};

using Doubles = py::array_t<double, py::array::c_style>;

const double* statistics_of(const Doubles& array, const GroupNormShape& shape, const char* name) {
  if (array.ndim() != 2 || array.shape(0) != shape.images || array.shape(1) != shape.groups)
    throw std::invalid_argument(std::string("group_norm_gradient: ") + name + " must have shape (" +
                                std::to_string(shape.images) + ", " + std::to_string(shape.groups) + "), got " +
                                to_string(array.shape(), static_cast<int>(array.ndim())));
  return array.data();
}

// Also returns the mean and the biased variance of every group, (N, groups).
py::tuple group_norm(const py::array& input, int64_t groups, const std::optional<py::array>& weight,
                     const std::optional<py::array>& bias, double eps) {
  const Signals src(input, "group_norm: input");
  const GroupNormShape shape = src.shape(groups);
  const OptionalVector weight_v(weight, shape.channels, "group_norm: weight");
  const OptionalVector bias_v(bias, shape.channels, "group_norm: bias");
  py::array dst = src.new_like();
  Doubles mean({shape.images, groups}), variance({shape.images, groups});
  float* to = data_of(dst);
  double* mean_to = mean.mutable_data();
  double* variance_to = variance.mutable_data();
  {
    const GilRelease release;
    with_scratch([&](Scratch& scratch) { reserve_group_norm(shape, scratch); },
                 [&](Scratch& scratch) {
                   run_group_norm(shape, src.dense_or_into(to), weight_v.data(), bias_v.data(), eps, mean_to,
                                  variance_to, to, num_threads(), scratch);
                 });
  }
  return py::make_tuple(dst, mean, variance);
}

// The gradients of the input, the weight and the bias; None for those not requested.
py::tuple group_norm_gradient(const py::array& input, const py::array& gradient, int64_t groups, const Doubles& mean,
                              const Doubles& variance, const std::optional<py::array>& weight, double eps,
                              bool of_input, bool of_vectors) {
  Signals src(input, "group_norm_gradient: input"), of_output(gradient, "group_norm_gradient: gradient");
  of_output.check_like(src, "group_norm_gradient: gradient");
  GroupNormGradient g{};
  g.shape = src.shape(groups);
  g.mean = statistics_of(mean, g.shape, "mean");
  g.variance = statistics_of(variance, g.shape, "var");
  const OptionalVector weight_v(weight, g.shape.channels, "group_norm_gradient: weight");
  g.weight = weight_v.data();
  g.eps = eps;
  py::object to_input = py::none(), to_weight = py::none(), to_bias = py::none();
  if (of_input) {
    py::array dst = src.new_like();
    g.src_gradient = data_of(dst);
    to_input = std::move(dst);
  }
  if (of_vectors) {
    py::array weights = new_array({g.shape.channels}), biases = new_array({g.shape.channels});
    g.weight_gradient = data_of(weights);
    g.bias_gradient = data_of(biases);
    to_weight = std::move(weights);
    to_bias = std::move(biases);
  }
  {
    const GilRelease release;
    g.src = src.dense();
    g.gradient = of_output.dense();
    run_group_norm_gradient(g);
  }
  return py::make_tuple(to_input, to_weight, to_bias);
}

}  // namespace

void bind_group_norm(py::module_& m) {
  m.def("group_norm", &group_norm, py::arg("input"), py::arg("groups"), py::arg("weight").none(true),
        py::arg("bias").none(true), py::arg("eps"));
  m.def("group_norm_gradient", &group_norm_gradient, py::arg("input"), py::arg("gradient"), py::arg("groups"),
        py::arg("mean"), py::arg("var"), py::arg("weight").none(true), py::arg("eps"), py::arg("of_input"),
        py::arg("of_vectors"));
}

}  // namespace convlane
