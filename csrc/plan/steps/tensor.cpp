// Steps of the general operations on tensors of any rank. Those whose kernels take C order copy other layouts, such as
// those of images, to scratch and back.
#include "ops/gather.h"
#include "ops/matmul.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/tensor_copy.h"
#include "plan/steps/dense.h"

namespace convlane {
namespace {

Tensor reshaped(const Tensor& like, const Tensor& dense) {
  Tensor view = dense_tensor(like, dense.data);
  view.dtype = dense.dtype;
  return view;
}

int axis_of(const StepArguments& at, const Tensor& t) {
  const int64_t axis = at.get<int64_t>("axis");
  at.check(axis >= 0 && axis < t.rank, "the axis is out of range");
  return static_cast<int>(axis);
}

Along along(const Tensor& t, int axis) {
  Along sizes{1, t.shape[axis], 1};
  for (int d = 0; d < t.rank; ++d)
    if (d != axis) (d < axis ? sizes.outer : sizes.inner) *= t.shape[d];
  return sizes;
}

// Whether `b` has the shape of `a` except along the axis.
bool same_but(const Tensor& a, const Tensor& b, int axis) {
  if (a.rank != b.rank) return false;
  for (int d = 0; d < a.rank; ++d)
    if (d != axis && a.shape[d] != b.shape[d]) return false;
  return true;
}

// One input and one output, of one shape.
void check_alike(const StepArguments& at) {
  const Tensor &dst = at.output(1, 1).tensor, &src = at.inputs[0].tensor;
  at.check(dst.dtype == DType::f32 && same_type(src, dst), "input and output must be float32 of one shape");
}

// As many outputs as inputs, each a copy with its own strides. Nothing is done for a staged input that lies where the
// caller has it.
Step prepare_copy(std::shared_ptr<const StepArguments> at) {
  at->check(at->inputs.size() == at->outputs.size(), "there must be as many outputs as inputs");
  for (std::size_t i = 0; i < at->inputs.size(); ++i) {
    const Tensor &from = at->inputs[i].tensor, &to = at->outputs[i].tensor;
    at->check(same_type(from, to), "inputs and outputs must have the same types and shapes");
  }
  return {[at = std::move(at)](const PlanRun& run) {
    for (std::size_t i = 0; i < at->inputs.size(); ++i) {
      const Tensor src = run.tensor(at->inputs[i]), dst = run.tensor(at->outputs[i]);
      if (src.data != dst.data) run_copy(src, dst);
    }
  }};
}

// The same numbers in C order, in another shape.
Step prepare_reshape(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  at->check(src->tensor.dtype == dst->tensor.dtype && src->tensor.count() == dst->tensor.count(),
            "the output does not hold the numbers");
  return step_of([=](const PlanRun* run, Scratch& scratch) {
    if (is_dense(dst->tensor)) {
      if (run != nullptr) run_copy(run->tensor(*src), reshaped(src->tensor, run->tensor(*dst)));
      return;
    }
    const Dense dense(*src, scratch);
    if (run != nullptr) run_copy(reshaped(dst->tensor, dense.load(*run)), run->tensor(*dst));
  });
}

Step prepare_unary(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  at->check_dense(*dst, "output");
  check_alike(*at);
  const Unary op = unary_from_name(at->get<std::string>("name"));
  const float first = at->has("first") ? static_cast<float>(at->number("first")) : 0;
  const float second = at->has("second") ? static_cast<float>(at->number("second")) : 0;
  return {[=](const PlanRun& run) { run_unary(op, run.tensor(*src), first, second, run.tensor(*dst)); }};
}

// The output has the shape to which all inputs broadcast.
void check_broadcast(const StepArguments& at) {
  Tensor shape = at.inputs[0].tensor;
  for (const StepOperand& input : at.inputs) {
    Tensor both;
    broadcast_shapes(shape, input.tensor, at.op, both);
    shape = both;
  }
  at.check(same_shape(shape, at.outputs[0].tensor), "the output has another shape than the inputs broadcast to");
}

Tensor wide(const PlanRun& run, const StepOperand& operand, const StepOperand& like) {
  return broadcast_to(run.tensor(operand), like.tensor);
}

Step prepare_binary(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(2, 2), *a = &at->inputs[0], *b = &at->inputs[1];
  at->check_dense(*dst, "output");
  at->check(a->tensor.dtype == DType::f32 && b->tensor.dtype == DType::f32, "the inputs must be float32");
  check_broadcast(*at);
  const Binary op = binary_from_name(at->get<std::string>("name"));
  return {[=](const PlanRun& run) { run_binary(op, wide(run, *a, *dst), wide(run, *b, *dst), run.tensor(*dst)); }};
}

Step prepare_compare(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(2, 2), *a = &at->inputs[0], *b = &at->inputs[1];
  at->check(a->tensor.dtype == b->tensor.dtype && dst->tensor.dtype == DType::boolean, "the types do not fit");
  check_broadcast(*at);
  const Comparison op = comparison_from_name(at->get<std::string>("name"));
  return {[=](const PlanRun& run) { run_comparison(op, wide(run, *a, *dst), wide(run, *b, *dst), run.tensor(*dst)); }};
}

Step prepare_where(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(3, 3), *which = &at->inputs[0], *a = &at->inputs[1], *b = &at->inputs[2];
  const DType type = dst->tensor.dtype;
  at->check(which->tensor.dtype == DType::boolean && a->tensor.dtype == type && b->tensor.dtype == type,
            "the types do not fit");
  check_broadcast(*at);
  return {[=](const PlanRun& run) {
    run_where(wide(run, *which, *dst), wide(run, *a, *dst), wide(run, *b, *dst), run.tensor(*dst));
  }};
}

// Attributes: name, axes and, for a variance, correction. The output may keep the axes with size 1 or not.
Step prepare_reduce(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  ReduceArgs args{reduce_from_name(at->get<std::string>("name")), src->tensor, {}, 0, nullptr};
  if (at->has("correction")) args.correction = at->number("correction");
  for (int64_t axis : at->get<std::vector<int64_t>>("axes")) {
    at->check(axis >= 0 && axis < src->tensor.rank, "an axis is out of range");
    args.reduced[static_cast<std::size_t>(axis)] = true;
  }
  int64_t results = 1, numbers = 1;
  for (int d = 0; d < src->tensor.rank; ++d)
    (args.reduced[static_cast<std::size_t>(d)] ? numbers : results) *= src->tensor.shape[d];
  at->check(src->tensor.dtype == DType::f32 && dst->tensor.dtype == DType::f32 && dst->tensor.count() == results,
            "the output has another size");
  at->check(numbers > 0 || (args.op != Reduce::amax && args.op != Reduce::amin),
            "the maximum or minimum of no numbers is undefined");
  at->check(!src->any_layout(), "the input must be in the arena");
  const int threads = at->threads;
  return step_of([=](const PlanRun* run, Scratch& scratch) {
    const Dense to(*dst, scratch);
    if (run == nullptr) return reserve_reduce(args, threads, scratch);
    ReduceArgs now = args;
    now.src = run->tensor(*src);
    now.dst = to.open(*run).floats();
    run_reduce(now, threads, scratch);
    to.store(*run);
  });
}

// A step along one axis, or along all at once where the sizes allow it.
template <class Work>
Step along_axis(const StepArguments& at, const Along& sizes, const Work& work) {
  const StepOperand *dst = &at.output(1, 2), *src = &at.inputs[0];
  return step_of([=](const PlanRun* run, Scratch& scratch) {
    const Dense from(*src, scratch), to(*dst, scratch);
    if (run == nullptr) return;
    work(from.load(*run), sizes, to.open(*run));
    to.store(*run);
  });
}

Along along_axis_of(const StepArguments& at) {
  const Tensor& src = at.inputs[0].tensor;
  return along(src, axis_of(at, src));
}

Step prepare_softmax_along(std::shared_ptr<const StepArguments> at) {
  check_alike(*at);
  const bool log = at->get<bool>("log");
  return along_axis(*at, along_axis_of(*at), [log](const Tensor& src, const Along& sizes, const Tensor& dst) {
    run_softmax(src.floats(), sizes, log, dst.floats());
  });
}

Step prepare_cumsum(std::shared_ptr<const StepArguments> at) {
  check_alike(*at);
  return along_axis(*at, along_axis_of(*at), [](const Tensor& src, const Along& sizes, const Tensor& dst) {
    run_cumsum(src.floats(), sizes, false, dst.floats());
  });
}

// Attributes: largest and axis; without an axis all numbers, in C order.
Step prepare_arg(std::shared_ptr<const StepArguments> at) {
  const Tensor &src = at->inputs[0].tensor, &dst = at->output(1, 1).tensor;
  const Along sizes = at->has("axis") ? along_axis_of(*at) : Along{1, src.count(), 1};
  at->check(src.dtype == DType::f32 && dst.dtype == DType::i64 && dst.count() == sizes.outer * sizes.inner &&
                sizes.count > 0 && sizes.count <= INT32_MAX,
            "input and output do not fit");
  const bool largest = at->get<bool>("largest");
  return along_axis(*at, sizes, [largest](const Tensor& from, const Along& each, const Tensor& to) {
    run_arg(largest, from.floats(), each, static_cast<int64_t*>(to.data));
  });
}

// The indices of the largest or smallest numbers.
Step prepare_topk(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const int axis = axis_of(*at, src->tensor);
  const int64_t k = dst->tensor.shape[axis];
  at->check(src->tensor.dtype == DType::f32 && dst->tensor.dtype == DType::i64 &&
                same_but(src->tensor, dst->tensor, axis) && k <= src->tensor.shape[axis],
            "input and output do not fit");
  const bool largest = at->get<bool>("largest");
  const int threads = at->threads;
  return step_of([=](const PlanRun* run, Scratch& scratch) {
    const Dense from(*src, scratch), to(*dst, scratch);
    auto* values = scratch.take<float>(dst->tensor.count());
    auto* order = scratch.take<int64_t>(checked_mul(threads, src->tensor.shape[axis]));
    if (run == nullptr) return;
    run_topk(from.load(*run).floats(), along(src->tensor, axis), k, largest, values,
             static_cast<int64_t*>(to.open(*run).data), order, threads);
    to.store(*run);
  });
}

// Inputs: the source, and the indices, checked in each run if they are computed: std::invalid_argument.
Step prepare_take(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(2, 2), *src = &at->inputs[0], *index = &at->inputs[1];
  const int axis = axis_of(*at, src->tensor);
  at->check(index->tensor.dtype == DType::i64 && dst->tensor.dtype == src->tensor.dtype &&
                same_but(src->tensor, dst->tensor, axis),
            "inputs and output do not fit");
  const bool each = at->get<bool>("each");  // an index for each element of the output
  at->check(each ? same_shape(index->tensor, dst->tensor)
                 : index->tensor.rank == 1 && index->tensor.shape[0] == dst->tensor.shape[axis],
            "there must be as many indices as outputs");
  return step_of([=](const PlanRun* run, Scratch& scratch) {
    const Dense from(*src, scratch), which(*index, scratch), to(*dst, scratch);
    if (run == nullptr) return;
    const Along sizes = along(src->tensor, axis);
    const auto* indices = static_cast<const int64_t*>(which.load(*run).data);
    check_indices(indices, index->tensor.count(), sizes.count, "gather");
    (each ? run_take_along : run_take)(from.load(*run).data, sizes, size_of(src->tensor.dtype), indices,
                                       dst->tensor.shape[axis], to.open(*run).data);
    to.store(*run);
  });
}

Step prepare_matmul(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(2, 2), *a = &at->inputs[0], *b = &at->inputs[1];
  const MatmulShapes shapes(a->tensor, b->tensor);
  at->check(a->tensor.dtype == DType::f32 && b->tensor.dtype == DType::f32 && dst->tensor.dtype == DType::f32 &&
                same_shape(shapes.product, dst->tensor),
            "the output has another shape or type");
  const KernelTable* kernels = &active_table();
  const int threads = at->threads;
  return step_of([=](const PlanRun* run, Scratch& scratch) {
    const Dense left(*a, scratch), right(*b, scratch), to(*dst, scratch);
    MatmulArgs args{stacked(dense_tensor(a->tensor, nullptr), shapes.a),
                    stacked(dense_tensor(b->tensor, nullptr), shapes.b), nullptr, kernels, threads};
    if (run == nullptr) return reserve_matmul(args, scratch);
    args.a.data = left.load(*run).data;
    args.b.data = right.load(*run).data;
    args.dst = to.open(*run).floats();
    if (dst->tensor.count() != 0) run_matmul(args, scratch);
    to.store(*run);
  });
}

const RegisterStep copy("copy", prepare_copy);
const RegisterStep reshape("reshape", prepare_reshape);
const RegisterStep unary("unary", prepare_unary);
const RegisterStep binary("binary", prepare_binary);
const RegisterStep compare("compare", prepare_compare);
const RegisterStep where("where", prepare_where);
const RegisterStep reduce("reduce", prepare_reduce);
const RegisterStep softmax_along("softmax_along", prepare_softmax_along);
const RegisterStep cumsum("cumsum", prepare_cumsum);
const RegisterStep arg("arg", prepare_arg);
const RegisterStep topk("topk", prepare_topk);
const RegisterStep take("take", prepare_take);
const RegisterStep matmul("matmul", prepare_matmul);

}  // namespace
}  // namespace convlane
