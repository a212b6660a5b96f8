// Operations on arrays of any rank, any strides and three types: one entry for each general kernel, which takes the
// name of the function to compute.
#include "bindings/arrays.h"
#include "ops/gather.h"
#include "ops/matmul.h"
#include "ops/parallel.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/tensor_copy.h"

namespace convlane {
namespace {

bool is_dense(const Tensor& view, bool channels_last) {
  int64_t stride = 1;
  const auto fits = [&](int axis) {
    if (view.shape[axis] != 1 && view.strides[axis] != stride) return false;
    stride *= view.shape[axis];
    return true;
  };
  if (channels_last && !fits(1)) return false;
  for (int axis = view.rank; axis-- > 0;)
    if (!(channels_last && axis == 1) && !fits(axis)) return false;
  return true;
}

// Pointwise operations keep the order of their largest operand; images that are not dense in C order are channels last.
bool keeps_channels_last(std::initializer_list<const Tensor*> operands) {
  const Tensor* largest = *operands.begin();
  for (const Tensor* operand : operands)
    if (operand->count() > largest->count()) largest = operand;
  if (largest->rank == 4) return is_dense(*largest, true) || !is_dense(*largest, false);
  return (largest->rank == 3 || largest->rank == 5) && is_dense(*largest, true) && !is_dense(*largest, false);
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
  if (dtype.kind() == 'b')
    view.dtype = DType::boolean;
  else if (dtype.kind() == 'i' && dtype.itemsize() == 8)
    view.dtype = DType::i64;
  else if (dtype.kind() != 'f' || dtype.itemsize() != 4)
    throw py::type_error("arrays hold float32, int64 or bool");
  return new_tensor(view, channels_last);
}

void copy(const py::array& input, py::array& output) {
  if (!output.writeable()) throw std::invalid_argument("copy: the output is read-only");
  const Tensor src = tensor_view(input, "input"), dst = tensor_view(output, "output");
  const GilRelease release;
  run_copy(src, dst);
}

py::array join(const std::vector<py::array>& tensors, std::size_t axis, const std::vector<int64_t>& shape) {
  std::vector<Tensor> parts;
  for (const py::array& tensor : tensors) parts.push_back(tensor_view(tensor, "tensor"));
  Tensor dst;
  dst.dtype = parts.at(0).dtype;
  dst.rank = static_cast<int>(shape.size());
  if (shape.size() > kMaxRank || axis >= shape.size()) throw std::invalid_argument("join: the shape does not fit");
  std::copy(shape.begin(), shape.end(), dst.shape.begin());
  py::array result = new_tensor(dst);
  const GilRelease release;
  int64_t left = dst.shape[axis];
  for (const Tensor& part : parts) {
    dst.shape[axis] = part.shape[axis];
    if ((left -= dst.shape[axis]) < 0) throw std::invalid_argument("join: the arrays are larger than the result");
    run_copy(part, dst);
    dst.data = static_cast<char*>(dst.data) + part.shape[axis] * dst.strides[axis] * size_of(dst.dtype);
  }
  return result;
}

int axis_of(const Tensor& view, int64_t axis) {
  if (axis < 0 || axis >= view.rank) throw std::invalid_argument("axis " + std::to_string(axis) + " is out of range");
  return static_cast<int>(axis);
}

py::array reduce(const std::string& name, const py::array& input, const std::vector<int64_t>& axes, bool keepdim,
                 double correction) {
  ReduceArgs args{reduce_from_name(name), floats(input, "input"), {}, correction, nullptr};
  for (int64_t axis : axes) args.reduced[axis_of(args.src, axis)] = true;
  Tensor dst;
  for (int d = 0; d < args.src.rank; ++d) {
    if (args.reduced[d] && !keepdim) continue;
    dst.shape[dst.rank++] = args.reduced[d] ? 1 : args.src.shape[d];
  }
  py::array result = new_tensor(dst);
  args.dst = dst.floats();
  const GilRelease release;
  const int threads = threads_for(args.src.count());
  with_scratch([&](Scratch& scratch) { reserve_reduce(args, threads, scratch); },
               [&](Scratch& scratch) { run_reduce(args, threads, scratch); });
  return result;
}

// Operations along one axis take arrays in C order.
Along along(const Tensor& view, int64_t axis) {
  const int at = axis_of(view, axis);
  Along sizes{1, view.shape[at], 1};
  int64_t stride = 1;
  for (int d = view.rank; d-- > 0; stride *= view.shape[d]) {
    if (view.shape[d] != 1 && view.strides[d] != stride && view.count() != 0)
      throw std::invalid_argument("the array must be dense in C order");
    if (d != at) (d < at ? sizes.outer : sizes.inner) *= view.shape[d];
  }
  return sizes;
}

py::array arg(bool largest, const py::array& input, int64_t axis) {
  const Tensor src = floats(input, "input");
  const Along sizes = along(src, axis);
  if (sizes.count == 0) throw std::invalid_argument("the largest or smallest of no numbers is undefined");
  if (sizes.count > INT32_MAX) throw std::invalid_argument("more than 2**31 - 1 numbers along the axis");
  Tensor dst = src;
  dst.dtype = DType::i64;
  dst.shape[axis] = 1;
  py::array result = new_tensor(dst);
  const GilRelease release;
  if (dst.count() != 0) run_arg(largest, src.floats(), sizes, static_cast<int64_t*>(dst.data));
  return result;
}

const int64_t* indices_of(const Tensor& index, int64_t size, const char* op) {
  if (index.dtype != DType::i64) throw py::type_error(std::string(op) + ": index must hold int64");
  if (index.rank > 0) along(index, 0);
  const auto* indices = static_cast<const int64_t*>(index.data);
  check_indices(indices, index.count(), size, op);
  return indices;
}

// index: one dimension.
py::array take(const py::array& input, int64_t axis, const py::array& index) {
  const Tensor src = tensor_view(input, "input"), chosen = tensor_view(index, "index");
  const Along sizes = along(src, axis);
  if (chosen.rank != 1) throw std::invalid_argument("index must have one dimension");
  const int64_t* indices = indices_of(chosen, sizes.count, "index_select");
  Tensor dst = src;
  dst.shape[axis] = chosen.shape[0];
  py::array result = new_tensor(dst);
  const GilRelease release;
  if (dst.count() != 0) run_take(src.data, sizes, size_of(src.dtype), indices, chosen.shape[0], dst.data);
  return result;
}

// From the gradient of an input that has `size` along the axis.
py::array take_gradient(const py::array& gradient, int64_t axis, const py::array& index, int64_t size) {
  const Tensor src = floats(gradient, "gradient"), chosen = tensor_view(index, "index");
  Along sizes = along(src, axis);
  if (chosen.rank != 1 || chosen.shape[0] != sizes.count || size < 0)
    throw std::invalid_argument("index must have one entry for each number along the axis");
  const int64_t* indices = indices_of(chosen, size, "index_select");
  Tensor dst = src;
  dst.shape[axis] = sizes.count = size;
  py::array result = new_tensor(dst);
  const GilRelease release;
  run_take_gradient(src.floats(), sizes, indices, chosen.shape[0], dst.floats());
  return result;
}

// `input` and `index` have the same shape except along the axis.
void check_same_but(const Tensor& src, const Tensor& index, int64_t axis) {
  bool same = src.rank == index.rank;
  for (int d = 0; same && d < src.rank; ++d) same = d == axis || src.shape[d] == index.shape[d];
  if (!same) throw std::invalid_argument("gather: input and index may differ in shape along the dimension only");
}

py::array take_along(const py::array& input, int64_t axis, const py::array& index) {
  const Tensor src = tensor_view(input, "input"), chosen = tensor_view(index, "index");
  const Along sizes = along(src, axis);
  check_same_but(src, chosen, axis);
  const int64_t* indices = indices_of(chosen, sizes.count, "gather");
  Tensor dst = chosen;
  dst.dtype = src.dtype;
  py::array result = new_tensor(dst);
  const GilRelease release;
  if (dst.count() != 0) run_take_along(src.data, sizes, size_of(src.dtype), indices, chosen.shape[axis], dst.data);
  return result;
}

py::array take_along_gradient(const py::array& gradient, int64_t axis, const py::array& index, int64_t size) {
  const Tensor src = floats(gradient, "gradient"), chosen = tensor_view(index, "index");
  Along sizes = along(src, axis);
  check_same_but(src, chosen, axis);
  if (chosen.shape[axis] != sizes.count || size < 0) throw std::invalid_argument("gather: gradient and index differ");
  const int64_t* indices = indices_of(chosen, size, "gather");
  Tensor dst = src;
  dst.shape[axis] = sizes.count = size;
  py::array result = new_tensor(dst);
  const GilRelease release;
  run_take_along_gradient(src.floats(), sizes, indices, chosen.shape[axis], dst.floats());
  return result;
}

py::array put_along(const py::array& values, int64_t axis, const py::array& index, int64_t size) {
  const Tensor src = floats(values, "values"), chosen = tensor_view(index, "index");
  Along sizes = along(src, axis);
  check_same_but(src, chosen, axis);
  if (chosen.shape[axis] != sizes.count || size < 0) throw std::invalid_argument("max_unpool: values and index differ");
  const int64_t* indices = indices_of(chosen, size, "max_unpool");
  Tensor dst = src;
  dst.shape[axis] = sizes.count = size;
  py::array result = new_tensor(dst);
  const GilRelease release;
  run_put_along(src.floats(), sizes, indices, chosen.shape[axis], dst.floats());
  return result;
}

// The array itself where `fits`, else a copy in C order, which `memory` holds.
Tensor fitting(const Tensor& view, bool fits, py::array& memory) {
  if (fits) return view;
  Tensor copy = view;
  memory = new_tensor(copy);
  run_copy(view, copy);
  return copy;
}

py::array matmul(const py::array& input, const py::array& other) {
  const Tensor a = floats(input, "input"), b = floats(other, "other");
  const MatmulShapes shapes(a, b);
  py::array left, right;
  Tensor dst = shapes.product;
  py::array result = new_tensor(dst);
  const MatmulArgs args{stacked(fitting(a, is_left_matrix(a), left), shapes.a),
                        stacked(fitting(b, is_right_matrix(b), right), shapes.b), dst.floats(), &active_table(),
                        num_threads()};
  const GilRelease release;
  if (dst.count() != 0)
    with_scratch([&](Scratch& scratch) { reserve_matmul(args, scratch); },
                 [&](Scratch& scratch) { run_matmul(args, scratch); });
  return result;
}

py::array cumsum(const py::array& input, int64_t axis, bool reverse) {
  const Tensor src = floats(input, "input");
  const Along sizes = along(src, axis);
  Tensor dst = src;
  py::array result = new_tensor(dst);
  const GilRelease release;
  run_cumsum(src.floats(), sizes, reverse, dst.floats());
  return result;
}

std::pair<py::array, py::array> topk(const py::array& input, int64_t axis, int64_t k, bool largest) {
  const Tensor src = floats(input, "input");
  const Along sizes = along(src, axis);
  if (k < 0 || k > sizes.count)
    throw std::invalid_argument("topk: k must be between 0 and " + std::to_string(sizes.count) + ", got " +
                                std::to_string(k));
  Tensor values = src, indices = src;
  values.shape[axis] = indices.shape[axis] = k;
  indices.dtype = DType::i64;
  std::pair<py::array, py::array> results{new_tensor(values), new_tensor(indices)};
  const GilRelease release;
  const int threads = threads_for(4 * src.count());
  const auto memory = allocate_aligned<int64_t>(checked_mul(threads, sizes.count));
  run_topk(src.floats(), sizes, k, largest, values.floats(), static_cast<int64_t*>(indices.data), memory.get(),
           threads);
  return results;
}

py::array softmax(const py::array& input, int64_t axis, bool log) {
  const Tensor src = floats(input, "input");
  const Along sizes = along(src, axis);
  Tensor dst = src;
  py::array result = new_tensor(dst);
  const GilRelease release;
  run_softmax(src.floats(), sizes, log, dst.floats());
  return result;
}

py::array softmax_gradient(const py::array& output, const py::array& gradient, int64_t axis, bool log) {
  const Tensor y = floats(output, "output"), behind = floats(gradient, "gradient");
  const Along sizes = along(y, axis);
  if (y.rank != behind.rank || y.shape != behind.shape)
    throw std::invalid_argument("softmax_gradient: output and gradient differ in shape");
  along(behind, axis);
  Tensor dst = y;
  py::array result = new_tensor(dst);
  const GilRelease release;
  run_softmax_gradient(y.floats(), behind.floats(), sizes, log, dst.floats());
  return result;
}

}  // namespace

void bind_tensor(py::module_& m) {
  m.def("empty", &empty, py::arg("shape"), py::arg("dtype"), py::arg("channels_last") = false);
  m.def("copy", &copy, py::arg("input"), py::arg("output"));
  m.def("unary", &unary, py::arg("name"), py::arg("input"), py::arg("first") = 0.0f, py::arg("second") = 0.0f);
  m.def("binary", &binary, py::arg("name"), py::arg("input"), py::arg("other"));
  m.def("compare", &compare, py::arg("name"), py::arg("input"), py::arg("other"));
  m.def("where", &where, py::arg("condition"), py::arg("input"), py::arg("other"));
  m.def("join", &join, py::arg("tensors"), py::arg("axis"), py::arg("shape"));
  m.def("reduce", &reduce, py::arg("name"), py::arg("input"), py::arg("axes"), py::arg("keepdim") = false,
        py::arg("correction") = 0.0);
  m.def("arg", &arg, py::arg("largest"), py::arg("input"), py::arg("axis"));
  m.def("take", &take, py::arg("input"), py::arg("axis"), py::arg("index"));
  m.def("take_gradient", &take_gradient, py::arg("gradient"), py::arg("axis"), py::arg("index"), py::arg("size"));
  m.def("take_along", &take_along, py::arg("input"), py::arg("axis"), py::arg("index"));
  m.def("take_along_gradient", &take_along_gradient, py::arg("gradient"), py::arg("axis"), py::arg("index"),
        py::arg("size"));
  m.def("put_along", &put_along, py::arg("values"), py::arg("axis"), py::arg("index"), py::arg("size"));
  m.def("matmul", &matmul, py::arg("input"), py::arg("other"));
  m.def("cumsum", &cumsum, py::arg("input"), py::arg("axis"), py::arg("reverse") = false);
  m.def("topk", &topk, py::arg("input"), py::arg("axis"), py::arg("k"), py::arg("largest") = true);
  m.def("softmax", &softmax, py::arg("input"), py::arg("axis"), py::arg("log"));
  m.def("softmax_gradient", &softmax_gradient, py::arg("output"), py::arg("gradient"), py::arg("axis"), py::arg("log"));
}

}  // namespace convlane
