// Cross-entropy: threads share the rows of logits.
#include "ops/cross_entropy.h"

#include <stdexcept>
#include <string>

#include "ops/parallel.h"

namespace convlane {
namespace {

// The kernel works through a part of the rows, of which dst has `width` numbers each.
void run_rows(void (*kernel)(const CrossEntropyArgs&), const CrossEntropyArgs& args, int64_t width) {
  constexpr int64_t kWorkPerLogit = 16;  // an exponential is about as many multiply-adds
  parallel_for(args.rows, threads_for(args.rows * args.classes * kWorkPerLogit),
               [&](int64_t begin, int64_t end, int) noexcept {
                 CrossEntropyArgs part = args;
                 part.rows = end - begin;
                 part.src += begin * args.classes;
                 part.dst += begin * width;
                 if (args.targets != nullptr) part.targets += begin;
                 if (args.probabilities != nullptr) part.probabilities += begin * args.classes;
                 if (args.gradient != nullptr) part.gradient += begin * args.gradient_step;
                 kernel(part);
               });
}

}  // namespace

void check_targets(const CrossEntropyArgs& args) {
  if (args.targets == nullptr) return;
  for (int64_t row = 0; row < args.rows; ++row)
    if (args.targets[row] >= args.classes)
      throw std::invalid_argument("cross_entropy: target holds " + std::to_string(args.targets[row]) +
                                  ", but there are " + std::to_string(args.classes) + " classes");
}

void run_cross_entropy(const CrossEntropyArgs& args) { run_rows(active_table().cross_entropy, args, 1); }

void run_cross_entropy_gradient(const CrossEntropyArgs& args) {
  run_rows(active_table().cross_entropy_gradient, args, args.classes);
}

}  // namespace convlane
