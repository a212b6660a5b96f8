// Compiled networks.
#include <limits>
#include <tuple>
#include <variant>

#include "bindings/arrays.h"
#include "ops/activation.h"
#include "ops/conv2d_pool.h"
#include "plan/plan.h"

namespace convlane {
namespace {

// A place, or (place, first channel, channels of the whole image).
using PyTarget = std::variant<Place, std::tuple<Place, int64_t, int64_t>>;

Target target_of(const PyTarget& target) {
  if (const Place* place = std::get_if<Place>(&target)) return {*place};
  const auto [place, channel, channels] = std::get<1>(target);
  return {place, channel, channels};
}

// Weight, bias, activation and slope of one convolution of a depthwise block.
using PyPart = std::tuple<std::shared_ptr<PackedWeight>, std::optional<py::array>, std::string, float>;

Pool2dDesc pool_of(const Shape4& shape, bool maximum, const Pair& kernel, const Pair& stride, const Sides& padding,
                   const Pair& dilation, bool ceil_mode, bool count_padding, std::optional<int64_t> divisor) {
  const Pooling kind = maximum ? Pooling::max : Pooling::average;
  Pool2dDesc desc = describe_pool2d("plan", kind, shape, window_of(stride, padding, dilation, kernel), ceil_mode);
  desc.count_padding = count_padding;
  desc.divisor = divisor;
  return desc;
}

// The arguments of pool_of, where a pooling is part of another step.
using PyPool = std::tuple<Shape4, bool, Pair, Pair, Sides, Pair, bool, bool, std::optional<int64_t>>;

std::vector<float> to_vector(const std::optional<py::array>& array, const char* name) {
  if (!array) return {};
  const int64_t size = array->ndim() == 1 ? array->shape(0) : -1;
  const OptionalVector values(array, size, name);
  return {values.data(), values.data() + size};
}

// New arrays for the outputs of a run, and where they lie.
struct Outputs {
  py::list arrays;
  std::vector<float*> data;
};

Outputs outputs_of(const Plan& plan, const ImageView& input) {
  if (Shape4{plan.input_shape()[0], input.shape[1], input.shape[2], input.shape[3]} != plan.input_shape())
    throw std::invalid_argument("plan: input has shape " + to_string(input.shape) + ", compiled for (N, " +
                                to_string(plan.input_shape().data() + 1, 3).substr(1));
  Outputs outputs;
  for (const auto& shape : plan.output_shapes()) {
    std::vector<py::ssize_t> sizes{input.shape[0]};
    sizes.insert(sizes.end(), shape.begin(), shape.end());
    py::array array = shape.size() == 3 ? new_image({sizes[0], sizes[1], sizes[2], sizes[3]}) : new_array(sizes);
    outputs.data.push_back(data_of(array));
    outputs.arrays.append(std::move(array));
  }
  return outputs;
}

}  // namespace

void bind_plan(py::module_& m) {
  m.def(
      "cheapest_conv2d",
      [](const Shape4& input, const Shape4& weight, const Pair& stride, const Sides& padding, const Pair& dilation,
         int64_t groups, bool winograd) {
        return cheapest_conv2d(describe_conv2d(input, weight, window_of(stride, padding, dilation), groups), winograd);
      },
      py::arg("input"), py::arg("weight"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
      py::arg("groups"), py::arg("winograd"));
  m.def(
      "conv2d_candidates",
      [](const Shape4& input, const Shape4& weight, const Pair& stride, const Sides& padding, const Pair& dilation,
         int64_t groups, bool winograd) {
        return conv2d_candidates(describe_conv2d(input, weight, window_of(stride, padding, dilation), groups),
                                 winograd);
      },
      py::arg("input"), py::arg("weight"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
      py::arg("groups"), py::arg("winograd"));

  m.def(
      "may_pool_in_cache",
      [](const Shape4& input, const Shape4& weight, const Pair& stride, const Sides& padding, const Pair& dilation,
         int64_t groups, const PyPool& pool) {
        const Conv2dDesc desc = describe_conv2d(input, weight, window_of(stride, padding, dilation), groups);
        return may_pool_in_cache(desc, std::apply(pool_of, pool));
      },
      py::arg("input"), py::arg("weight"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
      py::arg("groups"), py::arg("pool"));
  m.def(
      "pooled_from",
      [](const std::string& algorithm, const PyPool& pool) {
        const PooledFrom from = pooled_from(find_conv2d_algorithm(algorithm), std::apply(pool_of, pool));
        return from == PooledFrom::bands ? "row bands" : from == PooledFrom::tiles ? "tiles" : "image";
      },
      py::arg("algorithm"), py::arg("pool"));

  const auto activation = [](const std::string& name, float slope) {
    return PlanActivation{activation_from_name(name), slope};
  };
  py::class_<Plan>(m, "Plan")
      .def(py::init<const Shape4&, std::vector<std::vector<int64_t>>, int64_t, int64_t>(), py::arg("input_shape"),
           py::arg("output_shapes"), py::arg("arena"), py::arg("at_once") = std::numeric_limits<int64_t>::max())
      .def(
          "conv2d",
          [=](Plan& plan, Place src, const Shape4& shape, const PyTarget& dst, std::shared_ptr<PackedWeight> weight,
              const std::optional<py::array>& bias, const Pair& stride, const Sides& padding, const Pair& dilation,
              const std::string& algorithm, const std::string& name, float slope, std::optional<Place> residual,
              const std::optional<PyPool>& pool) {
            std::optional<Pool2dDesc> pooling;
            if (pool) pooling = std::apply(pool_of, *pool);
            plan.conv2d(src, shape, target_of(dst), std::move(weight), to_vector(bias, "bias"),
                        window_of(stride, padding, dilation), algorithm, activation(name, slope), residual, pooling);
          },
          py::arg("src"), py::arg("shape"), py::arg("dst"), py::arg("weight"), py::arg("bias").none(true),
          py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("algorithm"), py::arg("activation"),
          py::arg("slope"), py::arg("residual").none(true), py::arg("pool").none(true) = std::optional<PyPool>())
      .def(
          "depthwise_block",
          [=](Plan& plan, const PyTarget& src, const Shape4& shape, Place dst, const std::optional<PyPart>& expand,
              const PyPart& depthwise, const Pair& stride, const Sides& padding, const Pair& dilation,
              const std::optional<PyPart>& squeeze, const std::optional<PyPart>& excite, const PyPart& project,
              std::optional<Place> residual) {
            const auto part = [&](const std::optional<PyPart>& p) {
              if (!p) return Plan::Part{};
              const auto& [weight, bias, name, slope] = *p;
              return Plan::Part{weight, to_vector(bias, "bias"), activation(name, slope)};
            };
            plan.depthwise_block(target_of(src), shape, dst, part(expand), part(depthwise),
                                 window_of(stride, padding, dilation), part(squeeze), part(excite), part(project),
                                 residual);
          },
          py::arg("src"), py::arg("shape"), py::arg("dst"), py::arg("expand").none(true), py::arg("depthwise"),
          py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("squeeze").none(true),
          py::arg("excite").none(true), py::arg("project"), py::arg("residual").none(true))
      .def(
          "pool2d",
          [](Plan& plan, Place src, const Shape4& shape, const PyTarget& dst, bool maximum, const Pair& kernel,
             const Pair& stride, const Sides& padding, const Pair& dilation, bool ceil_mode, bool count_padding,
             std::optional<int64_t> divisor) {
            plan.pool2d(src,
                        pool_of(shape, maximum, kernel, stride, padding, dilation, ceil_mode, count_padding, divisor),
                        target_of(dst));
          },
          py::arg("src"), py::arg("shape"), py::arg("dst"), py::arg("maximum"), py::arg("kernel"), py::arg("stride"),
          py::arg("padding"), py::arg("dilation"), py::arg("ceil_mode"), py::arg("count_include_pad"),
          py::arg("divisor_override").none(true))
      .def(
          "adaptive_pool2d",
          [](Plan& plan, Place src, const Shape4& shape, const PyTarget& dst, bool maximum, const Pair& output) {
            const Pooling kind = maximum ? Pooling::max : Pooling::average;
            plan.pool2d(src, describe_adaptive_pool2d("plan", kind, shape, output), target_of(dst));
          },
          py::arg("src"), py::arg("shape"), py::arg("dst"), py::arg("maximum"), py::arg("output"))
      .def(
          "linear",
          [=](Plan& plan, Place src, Place dst, std::shared_ptr<PackedWeight> weight,
              const std::optional<py::array>& bias, const std::string& name, float slope) {
            plan.linear(src, dst, std::move(weight), to_vector(bias, "bias"), activation(name, slope));
          },
          py::arg("src"), py::arg("dst"), py::arg("weight"), py::arg("bias").none(true), py::arg("activation"),
          py::arg("slope"))
      .def(
          "add",
          [=](Plan& plan, Place a, Place b, Place dst, int64_t count, const std::string& name, float slope) {
            plan.add(a, b, dst, count, activation(name, slope));
          },
          py::arg("a"), py::arg("b"), py::arg("dst"), py::arg("count"), py::arg("activation"), py::arg("slope"))
      .def("multiply", &Plan::multiply, py::arg("a"), py::arg("b"), py::arg("dst"), py::arg("count"))
      .def("scale", &Plan::scale, py::arg("src"), py::arg("shape"), py::arg("factors"), py::arg("dst"))
      .def(
          "activation",
          [=](Plan& plan, Place src, Place dst, int64_t count, const std::string& name, float slope) {
            plan.activation(src, dst, count, activation(name, slope));
          },
          py::arg("src"), py::arg("dst"), py::arg("count"), py::arg("activation"), py::arg("slope"))
      .def("softmax", &Plan::softmax, py::arg("src"), py::arg("dst"), py::arg("rows"), py::arg("channels"),
           py::arg("log"))
      .def(
          "batch_norm",
          [](Plan& plan, Place src, Place dst, int64_t pixels, const py::array& mean, const py::array& variance,
             const std::optional<py::array>& weight, const std::optional<py::array>& bias, double eps) {
            plan.batch_norm(src, dst, pixels, to_vector(mean, "mean"), to_vector(variance, "variance"),
                            to_vector(weight, "weight"), to_vector(bias, "bias"), eps);
          },
          py::arg("src"), py::arg("dst"), py::arg("pixels"), py::arg("mean"), py::arg("variance"),
          py::arg("weight").none(true), py::arg("bias").none(true), py::arg("eps"))
      .def(
          "layer_norm",
          [](Plan& plan, Place src, Place dst, int64_t pixels, int64_t channels, const std::optional<py::array>& weight,
             const std::optional<py::array>& bias, float eps) {
            plan.layer_norm(src, dst, pixels, channels, to_vector(weight, "weight"), to_vector(bias, "bias"), eps);
          },
          py::arg("src"), py::arg("dst"), py::arg("pixels"), py::arg("channels"), py::arg("weight").none(true),
          py::arg("bias").none(true), py::arg("eps"))
      .def("local_response_norm", &Plan::local_response_norm, py::arg("src"), py::arg("dst"), py::arg("pixels"),
           py::arg("channels"), py::arg("size"), py::arg("alpha"), py::arg("beta"), py::arg("k"))
      .def(
          "copy", [](Plan& plan, Place src, const Shape4& shape, Place dst) { plan.copy(src, shape, {dst}); },
          py::arg("src"), py::arg("shape"), py::arg("dst"))
      .def(
          "concat",
          [](Plan& plan, const std::vector<std::tuple<PyTarget, Shape4, PyTarget>>& images) {
            std::vector<Plan::Copy> copies;
            for (const auto& [src, shape, dst] : images) copies.push_back({target_of(src), shape, target_of(dst)});
            plan.concat(std::move(copies));
          },
          py::arg("images"))
      .def(
          "slice",
          [](Plan& plan, const PyTarget& src, const Shape4& shape, Place dst) {
            plan.slice(target_of(src), shape, dst);
          },
          py::arg("src"), py::arg("shape"), py::arg("dst"))
      .def(
          "interleave",
          [](Plan& plan, const std::vector<PyTarget>& srcs, const Shape4& shape, Place dst) {
            std::vector<Target> images;
            for (const PyTarget& src : srcs) images.push_back(target_of(src));
            plan.interleave(std::move(images), shape, dst);
          },
          py::arg("srcs"), py::arg("shape"), py::arg("dst"))
      .def("flatten", &Plan::flatten, py::arg("src"), py::arg("shape"), py::arg("dst"))
      .def_property_readonly("arena", &Plan::arena)
      .def_property_readonly("steps", &Plan::steps)
      .def(
          "run",
          [](const Plan& plan, const py::array& input) {
            const ImageView view = image_view(input, "input");
            Outputs outputs = outputs_of(plan, view);
            {
              const GilRelease release;
              plan.run(view, outputs.data);
            }
            return outputs.arrays;
          },
          py::arg("input"))
      .def(
          "profile",
          [](const Plan& plan, const py::array& input) {
            const ImageView view = image_view(input, "input");
            const Outputs outputs = outputs_of(plan, view);
            const GilRelease release;
            return plan.profile(view, outputs.data);
          },
          py::arg("input"));
}

}  // namespace convlane
