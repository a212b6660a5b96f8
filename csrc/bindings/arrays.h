// Conversions between NumPy arrays and the views of ops/: no logic beyond checking kinds.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "bindings/gil.h"
#include "ops/tensor.h"
#include "ops/view.h"

namespace convlane {

namespace py = pybind11;

// TypeError unless float32 in native byte order and aligned: the Python layer makes the permitted conversions.
void check_float32(const py::array& array, const char* name);

// ValueError unless four-dimensional.
ImageView image_view(const py::array& array, const char* name);

// Any strides. TypeError unless float32, int64 or bool, ValueError beyond kMaxRank dimensions. The array must outlive
// it.
Tensor tensor_view(const py::array& array, const char* name);

// A new array with the rank and shape of a view, whose data and strides it sets: in C order, or channels last in
// memory.
py::array new_tensor(Tensor& view, bool channels_last = false);

// "float32", "int64" or "bool"; std::invalid_argument for any other.
DType dtype_from_name(const std::string& name);

// A new array with the type, sizes and strides of a tensor that is dense in some order of its dimensions.
py::array new_array_like(const Tensor& like);

// A new array in memory aligned for vectors. Images look like (N, C, H, W) and are channels last in memory.
py::array new_array(const std::vector<py::ssize_t>& shape);
py::array new_image(const Shape4& shape);
py::array new_index_image(const Shape4& shape);    // int64
py::array new_index32_image(const Shape4& shape);  // int32
float* data_of(py::array& array);

// An optional vector of `size` floats, or null; owns a copy when the array is not contiguous.
class OptionalVector {
 public:
  OptionalVector(const std::optional<py::array>& array, int64_t size, const char* name);
  const float* data() const { return data_; }

 private:
  std::vector<float> copy_;
  const float* data_ = nullptr;
};

void bind_conv2d(py::module_& m);
void bind_conv_transpose2d(py::module_& m);
void bind_elementwise(py::module_& m);
void bind_filter(py::module_& m);
void bind_grid_sample(py::module_& m);
void bind_group_norm(py::module_& m);
void bind_im2col(py::module_& m);
void bind_layout(py::module_& m);
void bind_linear(py::module_& m);
void bind_loss(py::module_& m);
void bind_norm(py::module_& m);
void bind_optimizer(py::module_& m);
void bind_plan(py::module_& m);
void bind_pool2d(py::module_& m);
void bind_resample(py::module_& m);
void bind_resize(py::module_& m);
void bind_runtime(py::module_& m);
void bind_tensor(py::module_& m);

}  // namespace convlane
