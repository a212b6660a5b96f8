// Operations on arrays of any rank, strides and of three types: one entry for each general kernel, which takes the name
// of what it is to do.
#include "bindings/arrays.h"
#include "ops/pointwise.h"
#include "ops/tensor_copy.h"

namespace convlane {
namespace {

bool is_dense(const Tensor& view, const std::array<int, 4>& order) {
  int64_t stride = 1;
  for (int i = 4; i-- > 0; stride *= view.shape[order[i]])
    if (view.shape[order[i]] != 1 && view.strides[order[i]] != stride) return false;
  return true;
}

// Pointwise operations keep the order of their largest operand; images that are not dense in C order are channels last.
bool keeps_channels_last(std::initializer_list<const Tensor*> operands) {
  const Tensor* largest = *operands.begin();
  for (const Tensor* operand : operands)
    if (operand->count() > largest->count()) largest = operand;
  return largest->rank == 4 && (is_dense(*largest, {0, 2, 3, 1}) || !is_dense(*largest, {0, 1, 2, 3}));
}

Tensor floats(const py::array& array, const char* name) {
  check_float32(array, name);
  return tensor_view(array, name);
}

py::array unary(const std::string& name, const py::array& input, float first, float second) {
  const Unary op = unary_from_name(name);
  const Tensor src = floats(input, "input");
  Tensor dst = src;
  py::array result = new_tensor(dst, keeps_channels_last({&src}));
  const GilRelease release;
  run_unary(op, src, first, second, dst);
  return result;
}

// The operands as arrays of the result's shape, and the result.
struct Pair {
  Tensor a, b, dst;
  py::array result;
};

Pair broadcast(const std::string& op, const Tensor& a, const Tensor& b, DType dtype) {
  Pair pair;
  broadcast_shapes(a, b, op, pair.dst);
  pair.dst.dtype = dtype;
  pair.result = new_tensor(pair.dst, keeps_channels_last({&a, &b}));
  pair.a = broadcast_to(a, pair.dst);
  pair.b = broadcast_to(b, pair.dst);
  return pair;
}

py::array binary(const std::string& name, const py::array& input, const py::array& other) {
  const Binary op = binary_from_name(name);
  const Pair pair = broadcast(name, floats(input, "input"), floats(other, "other"), DType::f32);
  const GilRelease release;
  run_binary(op, pair.a, pair.b, pair.dst);
  return pair.result;
}

py::array compare(const std::string& name, const py::array& input, const py::array& other) {
  const Comparison op = comparison_from_name(name);
  const Tensor a = tensor_view(input, "input"), b = tensor_view(other, "other");
  if (a.dtype != b.dtype) throw py::type_error(name + ": the two arrays hold different types");
  const Pair pair = broadcast(name, a, b, DType::boolean);
  const GilRelease release;
  run_comparison(op, pair.a, pair.b, pair.dst);
  return pair.result;
}

py::array where(const py::array& condition, const py::array& input, const py::array& other) {
  const Tensor which = tensor_view(condition, "condition"), a = tensor_view(input, "input");
  const Tensor b = tensor_view(other, "other");
  if (which.dtype != DType::boolean) throw py::type_error("where: condition must hold bools");
  if (a.dtype != b.dtype) throw py::type_error("where: the two arrays hold different types");
  Tensor both, dst;
  broadcast_shapes(a, b, "where", both);
  broadcast_shapes(which, both, "where", dst);
  dst.dtype = a.dtype;
  py::array result = new_tensor(dst, keeps_channels_last({&a, &b, &which}));
  const GilRelease release;
  run_where(broadcast_to(which, dst), broadcast_to(a, dst), broadcast_to(b, dst), dst);
  return result;
}

py::array empty(const std::vector<int64_t>& shape, const py::dtype& dtype, bool channels_last) {
  Tensor view;
  if (shape.size() > kMaxRank) throw std::invalid_argument("at most 8 dimensions, got " + std::to_string(shape.size()));
  view.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  view.dtype = dtype.is(py::dtype::of<bool>())      ? DType::boolean
               : dtype.is(py::dtype::of<int64_t>()) ? DType::i64
                                                    : DType::f32;
  return new_tensor(view, channels_last);
}

void copy(const py::array& input, py::array& output) {
  if (!output.writeable()) throw std::invalid_argument("copy: the output is read-only");
  const Tensor src = tensor_view(input, "input"), dst = tensor_view(output, "output");
  const GilRelease release;
  run_copy(src, dst);
}

}  // namespace

void bind_tensor(py::module_& m) {
  m.def("empty", &empty, py::arg("shape"), py::arg("dtype"), py::arg("channels_last") = false);
  m.def("copy", &copy, py::arg("input"), py::arg("output"));
  m.def("unary", &unary, py::arg("name"), py::arg("input"), py::arg("first") = 0.0f, py::arg("second") = 0.0f);
  m.def("binary", &binary, py::arg("name"), py::arg("input"), py::arg("other"));
  m.def("compare", &compare, py::arg("name"), py::arg("input"), py::arg("other"));
  m.def("where", &where, py::arg("condition"), py::arg("input"), py::arg("other"));
}

}  // namespace convlane
