// convlane._core: the compiled half of the package.
#include "bindings/arrays.h"
#include "runtime/buffer.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "Kernels of convlane. Use convlane.functional, which checks arguments and documents them.";
  pybind11::register_exception<convlane::SizeOverflow>(m, "SizeOverflow", PyExc_ValueError);
  convlane::bind_runtime(m);
  convlane::bind_tensor(m);
  convlane::bind_layout(m);
  convlane::bind_conv2d(m);
  convlane::bind_conv_transpose2d(m);
  convlane::bind_linear(m);
  convlane::bind_elementwise(m);
  convlane::bind_loss(m);
  convlane::bind_group_norm(m);
  convlane::bind_norm(m);
  convlane::bind_pool2d(m);
  convlane::bind_plan(m);
  convlane::bind_im2col(m);
  convlane::bind_optimizer(m);
  convlane::bind_resample(m);
  convlane::bind_resize(m);
  convlane::bind_grid_sample(m);
  convlane::bind_filter(m);
}
