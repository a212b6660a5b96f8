// Compiled networks.
#include "bindings/arrays.h"
#include "bindings/construct.h"
#include "plan/arena.h"
#include "plan/plan.h"

namespace convlane {
namespace {

Tensor tensor_of(DType dtype, const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  Tensor tensor;
  if (shape.size() > kMaxRank || shape.size() != strides.size())
    throw std::invalid_argument("plan: a tensor has at most " + std::to_string(kMaxRank) +
                                " sizes and as many strides");
  if (std::any_of(shape.begin(), shape.end(), [](int64_t size) { return size < 0; }))
    throw std::invalid_argument("plan: a size is negative");
  tensor.dtype = dtype;
  tensor.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), tensor.shape.begin());
  std::copy(strides.begin(), strides.end(), tensor.strides.begin());
  return tensor;
}

StepOperand constant_of(const py::array& array, const std::string& name) {
  StepOperand operand{Location::constant, 0, 0, tensor_view(array, name.c_str()), nullptr};
  operand.owner = std::make_shared<const py::array>(array);
  return operand;
}

// (type, shape, strides)
using PyType = std::tuple<std::string, std::vector<int64_t>, std::vector<int64_t>>;

Tensor tensor_of(const PyType& type) {
  const auto& [dtype, shape, strides] = type;
  return tensor_of(dtype_from_name(dtype), shape, strides);
}

// (location, which input or output, offset in bytes, type, shape, strides), or an array: a constant.
using PyTensor = std::tuple<std::string, int, int64_t, std::string, std::vector<int64_t>, std::vector<int64_t>>;
using PyOperand = std::variant<py::array, PyTensor>;

StepOperand operand_of(const PyOperand& given) {
  if (const auto* array = std::get_if<py::array>(&given)) return constant_of(*array, "plan: a constant");
  const auto& [location, index, offset, dtype, shape, strides] = std::get<PyTensor>(given);
  const Tensor tensor = tensor_of(dtype_from_name(dtype), shape, strides);
  if (location == "arena") return {Location::arena, 0, offset, tensor, nullptr};
  if (location == "input") return {Location::input, index, 0, tensor, nullptr};
  if (location == "staged") return {Location::staged, index, offset, tensor, nullptr};
  if (location == "output") return {Location::output, index, offset, tensor, nullptr};
  throw std::invalid_argument("plan: the location must be arena, input, staged or output, got '" + location + "'");
}

using PyWeight = std::variant<std::shared_ptr<PackedWeight>, std::shared_ptr<TransposedWeight>, py::array>;

void append(Plan& plan, const std::string& op, const std::vector<PyOperand>& inputs,
            const std::vector<PyOperand>& outputs, const std::map<std::string, Attribute>& attributes,
            const std::map<std::string, PyWeight>& weights) {
  StepArguments arguments{};
  arguments.op = op;
  for (const PyOperand& input : inputs) arguments.inputs.push_back(operand_of(input));
  for (const PyOperand& output : outputs) arguments.outputs.push_back(operand_of(output));
  arguments.attributes = attributes;
  for (const auto& [name, weight] : weights) {
    if (const auto* packed = std::get_if<std::shared_ptr<PackedWeight>>(&weight))
      arguments.packed.emplace(name, *packed);
    else if (const auto* transposed = std::get_if<std::shared_ptr<TransposedWeight>>(&weight))
      arguments.transposed.emplace(name, *transposed);
    else
      arguments.arrays.emplace(name, constant_of(std::get<py::array>(weight), "plan: " + op + ": " + name));
  }
  plan.append(std::move(arguments));
}

std::string text_of(const Tensor& t) { return to_string(t.shape.data(), t.rank); }

// The arrays of a run, kept alive while it lasts.
struct RunArrays {
  std::vector<Tensor> inputs;
  std::vector<void*> outputs;

  RunArrays(const Plan& plan, const std::vector<py::array>& from, std::vector<py::array>& to) {
    if (from.size() != plan.inputs().size() || to.size() != plan.outputs().size())
      throw std::invalid_argument("plan: it has " + std::to_string(plan.inputs().size()) + " inputs and " +
                                  std::to_string(plan.outputs().size()) + " outputs");
    for (std::size_t i = 0; i < from.size(); ++i) {
      inputs.push_back(tensor_view(from[i], "plan: an input"));
      if (!same_type(inputs[i], plan.inputs()[i]))
        throw std::invalid_argument("plan: input " + std::to_string(i) + " has shape " + text_of(inputs[i]) +
                                    ", made for " + text_of(plan.inputs()[i]));
    }
    for (std::size_t i = 0; i < to.size(); ++i) {
      const Tensor given = tensor_view(to[i], "plan: an output"), &expected = plan.outputs()[i];
      bool fits = same_type(given, expected);
      for (int axis = 0; fits && axis < given.rank; ++axis)
        fits = given.shape[axis] == 1 || given.strides[axis] == expected.strides[axis];
      if (!fits)
        throw std::invalid_argument("plan: output " + std::to_string(i) +
                                    " does not have the type, shape and strides that the plan was made for");
      outputs.push_back(to[i].mutable_data());
    }
  }
};

}  // namespace

void bind_plan(py::module_& m) {
  m.def("new_array", [](const PyType& type) { return new_array_like(tensor_of(type)); }, py::arg("type"));
  m.def(
      "assign_offsets",
      [](const std::vector<std::array<int64_t, 3>>& given) {
        std::vector<Life> lives;
        lives.reserve(given.size());
        for (const auto& [first, last, size] : given) lives.push_back({first, last, size});
        return assign_offsets(lives);
      },
      py::arg("lives"));
  py::class_<PlanMemory>(m, "PlanMemory")
      .def("__init__", constructor([] { return std::make_unique<PlanMemory>(); }), NewStyle())
      .def("limit", &PlanMemory::limit, py::arg("most"))
      .def_property_readonly("nbytes", &PlanMemory::bytes);
  py::class_<Plan>(m, "Plan")
      .def("__init__",
           constructor(
               [](const std::vector<PyType>& inputs, const std::vector<PyType>& outputs, int64_t arena, int threads) {
                 std::vector<Tensor> from, to;
                 for (const PyType& type : inputs) from.push_back(tensor_of(type));
                 for (const PyType& type : outputs) to.push_back(tensor_of(type));
                 return std::make_unique<Plan>(std::move(from), std::move(to), arena, threads);
               }),
           NewStyle(), py::arg("inputs"), py::arg("outputs"), py::arg("arena_bytes"), py::arg("threads"))
      .def("stage", &Plan::stage, py::arg("input"), py::arg("offset"))
      .def("append", &append, py::arg("op"), py::arg("inputs"), py::arg("outputs"),
           py::arg("attributes") = std::map<std::string, Attribute>(),
           py::arg("weights") = std::map<std::string, PyWeight>())
      .def_property_readonly("arena_bytes", &Plan::arena_bytes)
      .def_property_readonly("scratch_bytes", &Plan::scratch_bytes)
      .def_property_readonly("memory_bytes", &Plan::memory_bytes)
      .def_property_readonly("threads", &Plan::threads)
      .def_property_readonly("steps", &Plan::steps)
      .def(
          "run",
          [](const Plan& plan, const std::vector<py::array>& inputs, std::vector<py::array> outputs,
             PlanMemory& memory) {
            const RunArrays arrays(plan, inputs, outputs);
            bool ended;
            {
              GilRelease release;
              ended =
                  plan.run(arrays.inputs.data(), arrays.outputs.data(), memory, [&] { return release.interrupted(); });
            }
            if (!ended) throw py::error_already_set();
          },
          py::arg("inputs"), py::arg("outputs"), py::arg("memory"))
      .def(
          "profile",
          [](const Plan& plan, const std::vector<py::array>& inputs, std::vector<py::array> outputs,
             PlanMemory& memory) {
            const RunArrays arrays(plan, inputs, outputs);
            std::vector<double> seconds(static_cast<std::size_t>(plan.steps()));
            const GilRelease release;
            plan.profile(arrays.inputs.data(), arrays.outputs.data(), memory, seconds.data());
            return seconds;
          },
          py::arg("inputs"), py::arg("outputs"), py::arg("memory"));
}

}  // namespace convlane
