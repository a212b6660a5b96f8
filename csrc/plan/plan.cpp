#include "plan/plan.h"

#include <algorithm>
#include <chrono>

#include "runtime/team.h"

namespace convlane {
namespace {

using Clock = std::chrono::steady_clock;

// The bytes that a tensor covers from its first element on, and before it.
struct Reach {
  int64_t before = 0, behind = 0;
};

Reach reach_of(const Tensor& t) {
  Reach reach{0, size_of(t.dtype)};
  for (int axis = 0; axis < t.rank; ++axis) {
    if (t.shape[axis] < 1) return {};
    const int64_t bytes = checked_mul(checked_mul(t.shape[axis] - 1, t.strides[axis]), size_of(t.dtype));
    int64_t& side = bytes < 0 ? reach.before : reach.behind;
    side = checked_add(side, bytes < 0 ? -bytes : bytes);
  }
  return reach;
}

}  // namespace

Plan::Plan(std::vector<Tensor> inputs, std::vector<Tensor> outputs, int64_t arena_bytes, int threads)
    : inputs_(std::move(inputs)), outputs_(std::move(outputs)), arena_bytes_(arena_bytes), threads_(threads) {
  if (arena_bytes < 0 || threads < 1) throw std::invalid_argument("plan: an arena and a thread are needed");
  for (const Tensor& input : inputs_) staged_.push_back({input});
}

void Plan::stage(int input, int64_t offset) {
  if (input < 0 || input >= static_cast<int>(inputs_.size()))
    throw std::invalid_argument("plan: there is no such input");
  const Reach reach = reach_of(inputs_[input]);
  if (offset < 0 || offset > arena_bytes_ || reach.before > 0 || reach.behind > arena_bytes_ - offset)
    throw std::invalid_argument("plan: an input lies beyond the arena");
  staged_[input].offset = offset;
}

void Plan::check_operand(const StepArguments& arguments, const StepOperand& operand, bool written) const {
  if (operand.location == Location::constant) return arguments.check(!written, "a constant cannot be written");
  const bool caller = operand.location == Location::input, staged = operand.location == Location::staged;
  const auto& all = caller || staged ? inputs_ : outputs_;
  if (operand.location != Location::arena)
    arguments.check(operand.index >= 0 && operand.index < static_cast<int>(all.size()), "there is no such array");
  if (caller) {
    arguments.check(!written, "an input cannot be written");
    return arguments.check(same_type(operand.tensor, all[operand.index]), "an input has another type or size");
  }
  if (staged) {
    arguments.check(staged_[operand.index].offset >= 0, "the input is not staged");
    arguments.check(!written || arguments.op == "copy", "a staged input can only be copied to");
  }
  if (operand.tensor.count() == 0) return;  // none of it is read or written
  const int64_t end = operand.location == Location::arena ? arena_bytes_ : reach_of(all[operand.index]).behind;
  const Reach reach = reach_of(operand.tensor);
  arguments.check(operand.offset >= reach.before && operand.offset <= end && reach.behind <= end - operand.offset,
                  "an operand extends beyond its memory");
}

void Plan::append(StepArguments arguments) {
  for (const StepOperand& operand : arguments.inputs) check_operand(arguments, operand, false);
  for (const StepOperand& operand : arguments.outputs) check_operand(arguments, operand, true);
  arguments.threads = threads_;
  arguments_.push_back(std::make_shared<const StepArguments>(std::move(arguments)));
  steps_.push_back(prepare_step(arguments_.back()));
  scratch_bytes_ = std::max(scratch_bytes_, steps_.back().scratch_bytes);
}

int64_t Plan::memory_bytes() const { return checked_add(round_up(arena_bytes_, kAlignment), scratch_bytes_); }

template <class Each>
void Plan::run_steps(const Tensor* inputs, void* const* outputs, PlanMemory& memory, const Each& each) const {
  const int64_t arena = round_up(arena_bytes_, kAlignment);
  PlanMemory::Piece piece = memory.take(memory_bytes());
  const PlanRun run{inputs, staged_.data(), outputs, piece.data.get(), piece.data.get() + arena};
  const bool shared = lead_team(shares_.load(std::memory_order_relaxed) ? threads_ : 1, [&] {
    for (const Step& step : steps_)
      if (!each(step, run)) break;
  });
  if (shared) shares_.store(true, std::memory_order_relaxed);
  memory.give_back(std::move(piece));
}

bool Plan::run(const Tensor* inputs, void* const* outputs, PlanMemory& memory,
               const std::function<bool()>& stops) const {
  constexpr std::chrono::milliseconds kBetweenQuestions{100};
  auto next = Clock::now() + kBetweenQuestions;
  bool stopped = false;
  run_steps(inputs, outputs, memory, [&](const Step& step, const PlanRun& run) {
    step.run(run);
    const auto now = Clock::now();
    if (now < next) return true;
    next = now + kBetweenQuestions;
    stopped = stops();
    return !stopped;
  });
  return !stopped;
}

void Plan::profile(const Tensor* inputs, void* const* outputs, PlanMemory& memory, double* seconds) const {
  run_steps(inputs, outputs, memory, [&](const Step& step, const PlanRun& run) {
    const auto start = Clock::now();
    step.run(run);
    *seconds++ += std::chrono::duration<double>(Clock::now() - start).count();
    return true;
  });
}

}  // namespace convlane
