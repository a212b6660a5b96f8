// A compiled network for one size of its inputs: a list of steps over one arena, run as a whole without returning to
// Python. Runs share nothing but constants and weights, so several threads may run one plan at once.
#pragma once

#include <atomic>

#include "plan/memory.h"
#include "plan/step.h"

namespace convlane {

class Plan {
 public:
  // Types, sizes and, of the outputs, strides; the arena in bytes; how many threads a run may use.
  Plan(std::vector<Tensor> inputs, std::vector<Tensor> outputs, int64_t arena_bytes, int threads);

  // Gives an input memory `offset` bytes into the arena, for a copy in the layout of inputs(); see
  // Location::staged.
  void stage(int input, int64_t offset);

  // std::invalid_argument says what does not fit: an operand beyond its memory, or whatever the operation refuses.
  void append(StepArguments arguments);

  const std::vector<Tensor>& inputs() const { return inputs_; }
  const std::vector<Tensor>& outputs() const { return outputs_; }
  int64_t arena_bytes() const { return arena_bytes_; }
  int64_t scratch_bytes() const { return scratch_bytes_; }  // of the step that needs the most
  int64_t memory_bytes() const;                             // of a run: arena and scratch
  int threads() const { return threads_; }
  int64_t steps() const { return static_cast<int64_t>(steps_.size()); }

  // The caller's arrays: inputs of the plan's sizes with any strides, outputs with its strides. A long run calls
  // stops() between steps, every tenth of a second, to learn whether to stop; returns whether it ran to the end.
  bool run(const Tensor* inputs, void* const* outputs, PlanMemory& memory, const std::function<bool()>& stops) const;
  // The same, and records the seconds of each step.
  void profile(const Tensor* inputs, void* const* outputs, PlanMemory& memory, double* seconds) const;

 private:
  // Calls each(step, run) until it returns false.
  template <class Each>
  void run_steps(const Tensor* inputs, void* const* outputs, PlanMemory& memory, const Each& each) const;
  void check_operand(const StepArguments& arguments, const StepOperand& operand, bool written) const;

  std::vector<Tensor> inputs_, outputs_;
  std::vector<StagedInput> staged_;
  int64_t arena_bytes_, scratch_bytes_ = 0;
  int threads_;
  std::vector<Step> steps_;
  std::vector<std::shared_ptr<const StepArguments>> arguments_;  // the steps refer to them
  // Whether any run has shared out work: until one has, no team is started.
  mutable std::atomic<bool> shares_{false};
};

}  // namespace convlane
