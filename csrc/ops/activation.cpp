// Activations by name, and the parallel loops of the stand-alone operation.
#include "ops/activation.h"

#include <stdexcept>

#include "ops/parallel.h"

namespace convlane {

Activation activation_from_name(const std::string& name) {
  static constexpr std::pair<const char*, Activation> kNames[] = {{"none", Activation::none},
                                                                  {"relu", Activation::relu},
                                                                  {"relu6", Activation::relu6},
                                                                  {"leaky_relu", Activation::leaky_relu},
                                                                  {"silu", Activation::silu},
                                                                  {"hardswish", Activation::hardswish},
                                                                  {"sigmoid", Activation::sigmoid},
                                                                  {"tanh", Activation::tanh},
                                                                  {"hardsigmoid", Activation::hardsigmoid},
                                                                  {"gelu", Activation::gelu},
                                                                  {"gelu_tanh", Activation::gelu_tanh},
                                                                  {"elu", Activation::elu},
                                                                  {"celu", Activation::celu},
                                                                  {"selu", Activation::selu},
                                                                  {"softsign", Activation::softsign},
                                                                  {"mish", Activation::mish},
                                                                  {"logsigmoid", Activation::logsigmoid}};
  std::string known;
  for (const auto& [known_name, activation] : kNames) {
    if (name == known_name) return activation;
    known += (known.empty() ? "" : ", ") + std::string(known_name);
  }
  throw std::invalid_argument("unknown activation '" + name + "'; there are " + known);
}

void check_follows_from_output(Activation activation, const std::string& name, float slope) {
  switch (activation) {
    case Activation::none:
    case Activation::relu:
    case Activation::relu6:
    case Activation::hardsigmoid:
    case Activation::sigmoid:
    case Activation::tanh:
      return;
    case Activation::leaky_relu:
      if (slope >= 0) return;
      break;
    default:
      break;
  }
  throw std::invalid_argument("the gradient of " + name + " does not follow from its output");
}

void run_activation(const float* src, float* dst, int64_t count, Activation activation, float slope) {
  const auto activate = active_table().activate;
  parallel_for(count, threads_for(count), [&](int64_t begin, int64_t end, int) noexcept {
    activate(src + begin, dst + begin, end - begin, activation, slope);
  });
}

void run_activation_gradient(const float* at, const float* gradient, float* dst, int64_t count, Activation activation,
                             float slope, bool from_output) {
  const auto run = active_table().activation_gradient;
  parallel_for(count, threads_for(count), [&](int64_t begin, int64_t end, int) noexcept {
    run(at + begin, gradient + begin, dst + begin, end - begin, activation, slope, from_output);
  });
}

}  // namespace convlane
