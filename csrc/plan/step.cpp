#include "plan/step.h"

#include <algorithm>
#include <stdexcept>

#include "ops/activation.h"

namespace convlane {
namespace {

std::map<std::string, PrepareStep>& registered() {
  static std::map<std::string, PrepareStep> steps;
  return steps;
}

std::string shape_of(const Tensor& tensor) { return to_string(tensor.shape.data(), tensor.rank); }

ImageView image_of(const Tensor& t) {
  ImageView view{t.floats(), {}, {}};
  std::copy_n(t.shape.begin(), 4, view.shape.begin());
  std::copy_n(t.strides.begin(), 4, view.strides.begin());
  return view;
}

bool is_dense(const Tensor& t) {
  std::array<std::pair<int64_t, int64_t>, kMaxRank> axes;  // stride and size
  int count = 0;
  for (int axis = 0; axis < t.rank; ++axis)
    if (t.shape[axis] != 1) axes[count++] = {t.strides[axis], t.shape[axis]};
  int64_t expected = 1;
  for (int done = 0; done < count; ++done) {  // the axis of each expected stride in turn, starting at 1
    const auto found = std::find_if(axes.begin(), axes.begin() + count,
                                    [expected](const auto& axis) { return axis.first == expected; });
    if (found == axes.begin() + count) return false;
    expected *= found->second;
  }
  return true;
}

bool same_layout(const Tensor& a, const Tensor& b) {
  if (a.rank != b.rank) return false;
  for (int axis = 0; axis < a.rank; ++axis)
    if (a.shape[axis] != b.shape[axis] || (a.shape[axis] != 1 && a.strides[axis] != b.strides[axis])) return false;
  return true;
}

}  // namespace

Tensor PlanRun::tensor(const StepOperand& operand) const {
  if (operand.location == Location::input) return inputs[operand.index];
  Tensor tensor = operand.tensor;
  tensor.data = at(operand);
  return tensor;
}

char* PlanRun::staged_input(int index) const {
  const bool is_expected = same_layout(inputs[index], staged[index].tensor);
  return is_expected ? static_cast<char*>(inputs[index].data) : arena + staged[index].offset;
}

ImageView PlanRun::image(const StepOperand& operand) const { return image_of(tensor(operand)); }

void StepArguments::refuse(const std::string& what) const { throw std::invalid_argument("plan: " + op + ": " + what); }

const StepOperand& StepArguments::output(std::size_t fewest, std::size_t most) const {
  check(inputs.size() >= fewest && inputs.size() <= most,
        "it cannot take " + std::to_string(inputs.size()) + " inputs");
  check(outputs.size() == 1, "it has one output, not " + std::to_string(outputs.size()));
  return outputs[0];
}

double StepArguments::number(const std::string& name) const {
  const auto found = attributes.find(name);
  const int64_t* integer = found == attributes.end() ? nullptr : std::get_if<int64_t>(&found->second);
  return integer != nullptr ? static_cast<double>(*integer) : get<double>(name);
}

Activation StepArguments::activation(const std::string& prefix) const {
  return activation_from_name(get<std::string>(prefix + "activation"));
}

float StepArguments::slope(const std::string& prefix) const {
  return static_cast<float>(number(prefix + "negative_slope"));
}

std::shared_ptr<const PackedWeight> StepArguments::weight(const std::string& name) const {
  const auto found = packed.find(name);
  check(found != packed.end(), "the packed weight " + name + " is missing");
  return found->second;
}

std::shared_ptr<const TransposedWeight> StepArguments::transposed_weight(const std::string& name) const {
  const auto found = transposed.find(name);
  check(found != transposed.end(), "the packed weight " + name + " of a transposed convolution is missing");
  return found->second;
}

const float* StepArguments::vector(const std::string& name, int64_t size) const {
  const auto found = arrays.find(name);
  if (found == arrays.end()) return nullptr;
  const Tensor& t = found->second.tensor;
  check(t.dtype == DType::f32 && t.rank == 1 && t.shape[0] == size && (size < 2 || t.strides[0] == 1),
        name + " must be contiguous float32 of shape (" + std::to_string(size) + ",), got " + shape_of(t));
  return t.floats();
}

int64_t StepArguments::pixel_stride(const StepOperand& image, const char* name) const {
  const Tensor& t = image.tensor;
  check(t.dtype == DType::f32 && t.rank == 4, std::string(name) + " must be float32 (N, C, H, W), got " + shape_of(t));
  const auto [n, c, h, w] = image_of(t).shape;
  if (image.any_layout()) return c;
  const int64_t pixel = w != 1 ? t.strides[3] : h != 1 ? t.strides[2] : n != 1 ? t.strides[0] : c;
  check((c == 1 || t.strides[1] == 1) && pixel >= c && (h == 1 || t.strides[2] == w * pixel) &&
            (n == 1 || t.strides[0] == h * w * pixel),
        std::string(name) + " is not channels last");
  return pixel;
}

void StepArguments::check_dense_image(const StepOperand& image, const char* name) const {
  check(pixel_stride(image, name) == image.tensor.shape[1], std::string(name) + " is not dense channels last");
}

void StepArguments::check_dense(const StepOperand& operand, const char* name, const StepOperand* like) const {
  check(operand.tensor.dtype == DType::f32, std::string(name) + " must be float32");
  check(!operand.any_layout() && is_dense(operand.tensor), std::string(name) + " is not dense");
  check(like == nullptr || same_layout(operand.tensor, like->tensor),
        std::string(name) + " " + shape_of(operand.tensor) + " is not laid out as the output");
}

void StepArguments::check_shape(const StepOperand& operand, const char* name, const Shape4& shape) const {
  check(operand.tensor.rank == 4 && std::equal(shape.begin(), shape.end(), operand.tensor.shape.begin()),
        std::string(name) + " has shape " + shape_of(operand.tensor) + ", expected " + to_string(shape));
}

ChannelRows StepArguments::channel_rows(const StepOperand& input, const StepOperand& output) const {
  check_dense(output, "output");
  check_dense(input, "input", &output);
  const Tensor& t = output.tensor;
  check(t.rank > 1 && (t.shape[1] == 1 || t.strides[1] == 1), "the channels are not adjacent");
  return {t.shape[1] == 0 ? 0 : t.count() / t.shape[1], t.shape[1]};
}

RegisterStep::RegisterStep(const char* op, PrepareStep prepare) { registered().emplace(op, prepare); }

Step prepare_step(std::shared_ptr<const StepArguments> arguments) {
  const auto found = registered().find(arguments->op);
  if (found == registered().end()) {
    std::string known;
    for (const auto& [name, prepare] : registered()) known += (known.empty() ? "" : ", ") + name;
    throw std::invalid_argument("plan: there is no operation '" + arguments->op + "'; there are " + known);
  }
  return found->second(std::move(arguments));
}

}  // namespace convlane
