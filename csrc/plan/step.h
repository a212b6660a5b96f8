// Steps of a compiled network: what they are made from, and how they run.
//
// An operation registers by name a function that prepares a step of it: it checks everything, chooses, and returns the
// code that runs. A run allocates nothing; besides its operands it uses scratch that the plan has reserved.
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

// `staged` is an input that is copied into the arena unless the caller's array already is as the steps expect it.
enum class Location : std::uint8_t { arena, input, staged, output, constant };

// A tensor of a step, and where it is stored during a run.
struct StepOperand {
  Location location;
  int index;       // which input or output
  int64_t offset;  // bytes from the start of the arena, the staged input or the output
  // An input's strides are unknown until the caller passes the array; only a constant has data.
  Tensor tensor;
  std::shared_ptr<const void> owner;  // of a constant's data

  bool any_layout() const { return location == Location::input; }
};

// An input as the steps expect it, and where in the arena it is copied to; without data.
struct StagedInput {
  Tensor tensor;
  int64_t offset = -1;  // -1 if it is not staged
};

// What a step sees of the current run.
struct PlanRun {
  const Tensor* inputs;
  const StagedInput* staged;  // one per input
  void* const* outputs;
  char* arena;
  void* scratch;  // of the current step

  void* at(const StepOperand& operand) const {
    switch (operand.location) {
      case Location::arena:
        return arena + operand.offset;
      case Location::input:
        return inputs[operand.index].data;
      case Location::staged:
        return staged_input(operand.index) + operand.offset;
      case Location::output:
        return static_cast<char*>(outputs[operand.index]) + operand.offset;
      default:
        return operand.tensor.data;
    }
  }
  char* staged_input(int index) const;
  float* floats(const StepOperand& operand) const { return static_cast<float*>(at(operand)); }
  // The operand with its data; an input in the caller's layout.
  Tensor tensor(const StepOperand& operand) const;
  ImageView image(const StepOperand& operand) const;
};

struct Step {
  std::function<void(const PlanRun&)> run;
  int64_t scratch_bytes = 0;
};

using Attribute = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>, std::vector<std::string>,
                               Conv2dDesc, Conv3dDesc, Pool2dDesc>;

// Operations on each pixel alone see a matrix with a pixel's channels in a row.
struct ChannelRows {
  int64_t rows, channels;
};

// Everything that a step is made from. Each getter throws std::invalid_argument, naming the operation and the argument,
// where the argument is missing or of another kind.
struct StepArguments {
  std::string op;
  std::vector<StepOperand> inputs, outputs;
  std::map<std::string, Attribute> attributes;
  std::map<std::string, std::shared_ptr<const PackedWeight>> packed;
  std::map<std::string, std::shared_ptr<const TransposedWeight>> transposed;
  std::map<std::string, StepOperand> arrays;  // constants
  int threads;                                // maximum number for a run; scratch is reserved for that many

  [[noreturn]] void refuse(const std::string& what) const;
  void check(bool fits, const std::string& what) const {
    if (!fits) refuse(what);
  }

  // The only output, after checking the number of inputs.
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
  double number(const std::string& name) const;  // an integer is accepted, too
  Activation activation(const std::string& prefix = "") const;
  float slope(const std::string& prefix = "") const;

  std::shared_ptr<const PackedWeight> weight(const std::string& name) const;
  std::shared_ptr<const TransposedWeight> transposed_weight(const std::string& name) const;
  // A vector of `size` floats, or null where none was given. The operands must outlive it.
  const float* vector(const std::string& name, int64_t size) const;

  // The pixel stride of an image (N, C, H, W), whose channels must be adjacent and its pixels one stride apart.
  int64_t pixel_stride(const StepOperand& image, const char* name) const;
  // Dense channels last.
  void check_dense_image(const StepOperand& image, const char* name) const;
  // float32 without gaps, in the layout of `like`.
  void check_dense(const StepOperand& operand, const char* name, const StepOperand* like = nullptr) const;
  void check_shape(const StepOperand& operand, const char* name, const Shape4& shape) const;
  // Input and output without gaps, in one layout with adjacent channels (dimension 1).
  ChannelRows channel_rows(const StepOperand& input, const StepOperand& output) const;
};

// The arguments outlive the step, which may refer to them.
using PrepareStep = Step (*)(std::shared_ptr<const StepArguments> arguments);

// An object at namespace scope registers an operation.
struct RegisterStep {
  RegisterStep(const char* op, PrepareStep prepare);
};

// std::invalid_argument lists the known operations when `arguments->op` is not one of them.
Step prepare_step(std::shared_ptr<const StepArguments> arguments);

}  // namespace convlane
