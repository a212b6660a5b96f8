// Checks of sliding windows, and the output-size rule.
#include "ops/window.h"

#include <stdexcept>

namespace convlane {
namespace {

[[noreturn]] void refuse(const char* op, const std::string& what) {
  throw std::invalid_argument(std::string(op) + ": " + what);
}

void check_positive(const char* op, const char* name, const Pair& value) {
  if (value[0] < 1 || value[1] < 1) refuse(op, std::string(name) + " must be at least 1, got " + to_string(value));
}

int64_t extent(int64_t size, int64_t before, int64_t after) { return checked_add(size, checked_add(before, after)); }
int64_t reach(int64_t kernel, int64_t dilation) { return checked_add(checked_mul(kernel - 1, dilation), 1); }

int64_t outputs(int64_t padded, int64_t kernel_reach, int64_t stride, int64_t inside, bool ceil_mode) {
  const int64_t room = padded - kernel_reach;
  if (!ceil_mode) return room / stride + 1;
  const int64_t count = checked_add(room, stride - 1) / stride + 1;
  return checked_mul(count - 1, stride) >= inside ? count - 1 : count;
}

}  // namespace

void check_window(const char* op, const Window& w) {
  check_positive(op, "kernel size", w.kernel);
  check_positive(op, "stride", w.stride);
  check_positive(op, "dilation", w.dilation);
  const std::array<int64_t, 4> padding{w.top, w.bottom, w.left, w.right};
  for (int64_t side : padding)
    if (side < 0) refuse(op, "padding must not be negative, got (top, bottom, left, right) = " + to_string(padding));
}

Pair window_output(const char* op, const Window& w, int64_t height, int64_t width, bool ceil_mode) {
  check_window(op, w);
  const Pair padded{extent(height, w.top, w.bottom), extent(width, w.left, w.right)};
  const Pair kernel_reach{reach(w.kernel[0], w.dilation[0]), reach(w.kernel[1], w.dilation[1])};
  if (height < 1 || width < 1 || kernel_reach[0] > padded[0] || kernel_reach[1] > padded[1])
    refuse(op, "the padded input is " + to_string(padded) + " (height, width), smaller than the kernel's reach " +
                   to_string(kernel_reach));
  return {outputs(padded[0], kernel_reach[0], w.stride[0], extent(height, w.top, 0), ceil_mode),
          outputs(padded[1], kernel_reach[1], w.stride[1], extent(width, w.left, 0), ceil_mode)};
}

}  // namespace convlane
