// Operands for kernels that support one memory layout: other layouts are copied to scratch and back.
#pragma once

#include "ops/tensor_copy.h"
#include "plan/step.h"

namespace convlane {

// C order, or channels last, with dimension 1 innermost.
enum class Order { c, channels_last };

inline Tensor dense_tensor(Tensor t, void* data, Order order = Order::c) {
  t.data = data;
  int64_t stride = 1;
  const bool moved = order == Order::channels_last && t.rank > 2;
  if (moved) {
    t.strides[1] = 1;
    stride = t.shape[1];
  }
  for (int d = t.rank; d-- > 0;) {
    if (moved && d == 1) continue;
    t.strides[d] = stride;
    stride *= t.shape[d];
  }
  return t;
}

inline bool is_dense(const Tensor& t, Order order = Order::c) {
  const Tensor dense = dense_tensor(t, nullptr, order);
  for (int d = 0; d < t.rank; ++d)
    if (t.shape[d] != 1 && t.strides[d] != dense.strides[d]) return false;
  return true;
}

// An operand in one layout: itself, or a copy in scratch. An input's strides are known only during a run, so scratch
// for its copy is always reserved.
class Dense {
 public:
  Dense(const StepOperand& operand, Scratch& scratch, Order order = Order::c) : operand_(&operand), order_(order) {
    copied_ = operand.any_layout() || !is_dense(operand.tensor, order);
    if (copied_) copy_ = scratch.take<char>(checked_mul(operand.tensor.count(), size_of(operand.tensor.dtype)));
  }
  // The operand to be read.
  Tensor load(const PlanRun& run) const {
    const Tensor tensor = run.tensor(*operand_);
    if (!copied_ || is_dense(tensor, order_)) return tensor;
    const Tensor dense = dense_tensor(tensor, copy_, order_);
    run_copy(tensor, dense);
    return dense;
  }
  // The memory to be written; store() then copies it to the operand if needed.
  Tensor open(const PlanRun& run) const {
    return copied_ ? dense_tensor(operand_->tensor, copy_, order_) : run.tensor(*operand_);
  }
  void store(const PlanRun& run) const {
    if (copied_) run_copy(dense_tensor(operand_->tensor, copy_, order_), run.tensor(*operand_));
  }

 private:
  const StepOperand* operand_;
  Order order_;
  bool copied_;
  void* copy_ = nullptr;
};

// A step whose work(run, scratch) takes the same scratch during a run as now, when it only counts (run is null).
template <class Work>
Step step_of(Work work) {
  Scratch counted;
  work(nullptr, counted);
  return {[work](const PlanRun& run) {
            Scratch scratch(run.scratch);
            work(&run, scratch);
          },
          counted.bytes()};
}

}  // namespace convlane
