// Steps of optimisers. Buffers and gradients are contiguous; the buffers are written in place.
#include "bindings/arrays.h"
#include "ops/optimizer.h"

namespace convlane {
namespace {

// (offset, gradient, lr, weight_decay, shrink)
using GivenSegment = std::tuple<int64_t, py::array, float, float, float>;

void check_contiguous(const py::array& array, const char* name) {
  check_float32(array, name);
  if (!(array.flags() & py::array::c_style)) throw std::invalid_argument(std::string(name) + " must be contiguous");
}

std::vector<Segment> segments_of(const std::vector<GivenSegment>& given, int64_t size) {
  std::vector<Segment> segments;
  for (const auto& [offset, gradient, lr, weight_decay, shrink] : given) {
    check_contiguous(gradient, "optimizer: gradient");
    if (offset < 0 || gradient.size() > size - offset)
      throw std::invalid_argument("optimizer: a parameter is outside the buffer");
    segments.push_back({offset, gradient.size(), static_cast<const float*>(gradient.data()), lr, weight_decay, shrink});
  }
  return segments;
}

// The memory of a buffer as large as the parameters', to be written; null for none.
float* buffer_of(std::optional<py::array>& array, int64_t size) {
  if (!array) return nullptr;
  check_contiguous(*array, "optimizer: buffer");
  if (array->size() != size) throw std::invalid_argument("optimizer: the buffers differ in size");
  return data_of(*array);  // refuses read-only arrays
}

Rule rule_from_name(const std::string& name) {
  if (name == "sgd") return Rule::sgd;
  if (name == "nesterov") return Rule::nesterov;
  if (name == "rmsprop") return Rule::rmsprop;
  if (name == "adam") return Rule::adam;
  throw std::invalid_argument("optimizer: unknown rule '" + name + "'");
}

void optimizer_step(const std::string& rule, const py::array& src, std::optional<py::array> dst,
                    std::optional<py::array> first, std::optional<py::array> second,
                    const std::vector<GivenSegment>& segments, float gradient_factor, float momentum, float average,
                    float fresh, float correction, float eps) {
  check_contiguous(src, "optimizer: buffer");
  const int64_t size = src.size();
  UpdateArgs args{};
  args.src = static_cast<const float*>(src.data());
  args.dst = buffer_of(dst, size);
  args.first = buffer_of(first, size);
  args.second = buffer_of(second, size);
  args.gradient_factor = gradient_factor;
  args.momentum = momentum;
  args.average = average;
  args.fresh = fresh;
  args.correction = correction;
  args.eps = eps;
  const Rule known = rule_from_name(rule);
  const std::vector<Segment> parts = segments_of(segments, size);
  const GilRelease release;
  run_update(known, args, parts);
}

double sum_of_squares(const std::vector<py::array>& arrays) {
  std::vector<Segment> segments;
  for (const py::array& array : arrays) {
    check_contiguous(array, "sum_of_squares: array");
    segments.push_back({0, array.size(), static_cast<const float*>(array.data()), 0, 0, 0});
  }
  const GilRelease release;
  return run_sum_of_squares(segments);
}

}  // namespace

void bind_optimizer(py::module_& m) {
  m.def("optimizer_step", &optimizer_step, py::arg("rule"), py::arg("src"), py::arg("dst"), py::arg("first").none(true),
        py::arg("second").none(true), py::arg("segments"), py::kw_only(), py::arg("gradient_factor") = 1.0f,
        py::arg("momentum") = 0.0f, py::arg("average") = 0.0f, py::arg("fresh") = 0.0f, py::arg("correction") = 1.0f,
        py::arg("eps") = 0.0f);
  m.def("sum_of_squares", &sum_of_squares, py::arg("arrays"));
}

}  // namespace convlane
