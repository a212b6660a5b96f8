// Steps of a compiled network: what they are made from, and how they run.
//
// An operation registers once, by name, the function that makes a step of it ready: it checks everything, chooses, and
// returns what runs. A run allocates nothing; what it needs beside its operands is scratch that the plan has set aside.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "ops/conv3d.h"
#include "ops/conv_transpose2d.h"
#include "ops/pool2d.h"
#include "ops/tensor.h"

namespace convlane {

enum class Place : std::uint8_t { arena, input, output, constant };

// A tensor of a step, and where it lies in a run.
struct StepOperand {
  Place place;
  int index;       // which input or output
  int64_t offset;  // bytes from the start of the arena or the output
  // An input's strides are unknown until the caller's array is there; only a constant has data.
  Tensor tensor;
  std::shared_ptr<const void> owner;  // of a constant's data

  bool any_layout() const { return place == Place::input; }
};

// What a step sees of the run that it is part of.
struct PlanRun {
  const Tensor* inputs;
  void* const* outputs;
  char* arena;
  void* scratch;  // of the step at work

  void* at(const StepOperand& operand) const {
    switch (operand.place) {
      case Place::arena:
        return arena + operand.offset;
      case Place::input:
        return inputs[operand.index].data;
      case Place::output:
        return static_cast<char*>(outputs[operand.index]) + operand.offset;
      default:
        return operand.tensor.data;
    }
  }
  float* floats(const StepOperand& operand) const { return static_cast<float*>(at(operand)); }
  // The operand with its data, an input as the caller has laid it out.
  Tensor tensor(const StepOperand& operand) const;
  ImageView image(const StepOperand& operand) const;
};

struct Step {
  std::function<void(const PlanRun&)> run;
  int64_t scratch_bytes = 0;
};

using Attribute = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>, std::vector<std::string>,
                               Conv2dDesc, Conv3dDesc, Pool2dDesc>;

// What works on each pixel alone sees a matrix with its channels in a row.
struct ChannelRows {
  int64_t rows, channels;
};

// All that a step is made from. Each getter throws std::invalid_argument, which names the operation and the argument,
// where that is missing or of another kind.
struct StepArguments {
  std::string op;
  std::vector<StepOperand> inputs, outputs;
  std::map<std::string, Attribute> attributes;
  std::map<std::string, std::shared_ptr<const PackedWeight>> packed;
  std::map<std::string, std::shared_ptr<const TransposedWeight>> transposed;
  std::map<std::string, StepOperand> arrays;  // constants
  int threads;                                // that a run may use; scratch is for as many

  [[noreturn]] void refuse(const std::string& what) const;
  void check(bool fits, const std::string& what) const {
    if (!fits) refuse(what);
  }

  // The only output, after the number of inputs was checked.
  const StepOperand& output(std::size_t fewest_inputs, std::size_t most_inputs) const;

  template <class T>
  const T& get(const std::string& name) const {
    const auto found = attributes.find(name);
    check(found != attributes.end(), "the attribute " + name + " is missing");
    const T* value = std::get_if<T>(&found->second);
    check(value != nullptr, "the attribute " + name + " is of the wrong kind");
    return *value;
  }
  bool has(const std::string& name) const { return attributes.count(name) != 0; }
  double number(const std::string& name) const;  // an integer will do
  Activation activation(const std::string& prefix = "") const;
  float slope(const std::string& prefix = "") const;

  std::shared_ptr<const PackedWeight> weight(const std::string& name) const;
  std::shared_ptr<const TransposedWeight> transposed_weight(const std::string& name) const;
  // A vector of `size` floats, or null where it was not given. The operands must outlive what is made of it.
  const float* vector(const std::string& name, int64_t size) const;

  // An image (N, C, H, W) whose channels lie side by side, its pixels one stride apart; that stride.
  int64_t pixel_stride(const StepOperand& image, const char* name) const;
  // Dense channels last.
  void check_dense_image(const StepOperand& image, const char* name) const;
  // float32 without gaps, and laid out as `like`.
  void check_dense(const StepOperand& operand, const char* name, const StepOperand* like = nullptr) const;
  void check_shape(const StepOperand& operand, const char* name, const Shape4& shape) const;
  // Input and output without gaps, of one layout in which the channels, dimension 1, lie side by side.
  ChannelRows channel_rows(const StepOperand& input, const StepOperand& output) const;
};

// The arguments outlive the step, which may refer to them.
using PrepareStep = Step (*)(std::shared_ptr<const StepArguments> arguments);

// An object of namespace scope makes an operation known.
struct RegisterStep {
  RegisterStep(const char* op, PrepareStep prepare);
};

// std::invalid_argument names what there is when `arguments->op` is not.
Step prepare_step(std::shared_ptr<const StepArguments> arguments);

}  // namespace convlane
