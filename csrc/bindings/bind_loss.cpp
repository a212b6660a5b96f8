// Losses.
#include <stdexcept>

#include "bindings/arrays.h"
#include "ops/cross_entropy.h"

namespace convlane {
namespace {

Tensor dense(const py::array& array, const char* name) {
  const Tensor view = tensor_view(array, name);
  if ((array.flags() & py::array::c_style) == 0)
    throw std::invalid_argument(std::string(name) + " must be dense in C order");
  return view;
}

// Logits with the classes as the last dimension; targets are int64 without that dimension, or float32 with it.
CrossEntropyArgs arguments(const Tensor& logits, const Tensor& target, const Tensor& weight, float own, float others) {
  const int last = logits.rank - 1;
  if (last < 0 || logits.dtype != DType::f32) throw std::invalid_argument("logits must be float32, (..., classes)");
  if (weight.dtype != DType::f32 || weight.rank != 1 || weight.shape[0] != logits.shape[last])
    throw std::invalid_argument("weight must be float32, (classes,)");
  Tensor expected = logits;
  if (target.dtype == DType::i64) {
    expected.rank = last;
    expected.dtype = DType::i64;
  }
  if (!same_type(target, expected)) throw std::invalid_argument("target does not fit the logits");
  CrossEntropyArgs args{};
  args.classes = logits.shape[last];
  args.rows = args.classes == 0 ? 0 : logits.count() / args.classes;
  args.src = logits.floats();
  if (target.dtype == DType::i64)
    args.targets = static_cast<const int64_t*>(target.data);
  else
    args.probabilities = target.floats();
  args.weight = weight.floats();
  args.own = own;
  args.others = others;
  check_targets(args);
  return args;
}

py::array cross_entropy(const py::array& logits, const py::array& target, const py::array& weight, float own,
                        float others) {
  const Tensor src = dense(logits, "logits");
  CrossEntropyArgs args = arguments(src, dense(target, "target"), dense(weight, "weight"), own, others);
  Tensor dst = src;
  --dst.rank;
  py::array result = new_tensor(dst);
  args.dst = dst.floats();
  const GilRelease release;
  run_cross_entropy(args);
  return result;
}

// `gradient` is one number for each loss, or one for all of them.
py::array cross_entropy_gradient(const py::array& logits, const py::array& target, const py::array& weight, float own,
                                 float others, const py::array& gradient) {
  const Tensor src = dense(logits, "logits"), behind = dense(gradient, "gradient");
  CrossEntropyArgs args = arguments(src, dense(target, "target"), dense(weight, "weight"), own, others);
  Tensor losses = src;
  --losses.rank;
  if (behind.dtype != DType::f32 || (behind.rank != 0 && !same_shape(behind, losses)))
    throw std::invalid_argument("gradient must be float32 and one number, or one per loss");
  args.gradient = behind.floats();
  args.gradient_step = behind.rank == 0 ? 0 : 1;
  Tensor dst = src;
  py::array result = new_tensor(dst);
  args.dst = dst.floats();
  const GilRelease release;
  run_cross_entropy_gradient(args);
  return result;
}

}  // namespace

void bind_loss(py::module_& m) {
  m.def("cross_entropy", &cross_entropy, py::arg("logits"), py::arg("target"), py::arg("weight"), py::arg("own"),
        py::arg("others"));
  m.def("cross_entropy_gradient", &cross_entropy_gradient, py::arg("logits"), py::arg("target"), py::arg("weight"),
        py::arg("own"), py::arg("others"), py::arg("gradient"));
}

}  // namespace convlane
