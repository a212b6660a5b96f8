#include "bindings/arrays.h"

#include <algorithm>

#include <stdexcept>

namespace convlane {
namespace {

template <class T>
py::array wrap(AlignedArray<T> memory, std::vector<py::ssize_t> shape, std::vector<py::ssize_t> strides) {
  T* data = memory.get();
  py::capsule owner(data, [](void* p) { free_block(p); });
  memory.release();
  return py::array(py::dtype::of<T>(), std::move(shape), std::move(strides), data, owner);
}

template <class T>
py::array new_channels_last(const Shape4& shape) {
  const auto [n, c, h, w] = shape;
  const py::ssize_t item = sizeof(T), pixel = checked_mul(c, item), row = checked_mul(w, pixel);
  const py::ssize_t image = checked_mul(h, row);
  return wrap(allocate_aligned<T>(checked_mul(n, image) / item), {n, c, h, w}, {image, item, row, pixel});
}

bool is_aligned(const py::array& array) { return (array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0; }

py::array wrap(const Tensor& shape, int64_t count, std::vector<py::ssize_t> sizes, std::vector<py::ssize_t> strides) {
  switch (shape.dtype) {
    case DType::i64:
      return wrap(allocate_aligned<int64_t>(count), std::move(sizes), std::move(strides));
    case DType::boolean:
      return wrap(allocate_aligned<bool>(count), std::move(sizes), std::move(strides));
    case DType::f32:
      break;
  }
  return wrap(allocate_aligned<float>(count), std::move(sizes), std::move(strides));
}

}  // namespace

void check_float32(const py::array& array, const char* name) {
  if (!array.dtype().is(py::dtype::of<float>()) && !py::isinstance<py::array_t<float>>(array))
    throw py::type_error(std::string(name) + " must be a float32 array");
  if (!is_aligned(array)) throw py::type_error(std::string(name) + " is not aligned in memory");
}

DType dtype_from_name(const std::string& name) {
  if (name == "float32") return DType::f32;
  if (name == "int64") return DType::i64;
  if (name == "bool") return DType::boolean;
  throw std::invalid_argument("the type must be float32, int64 or bool, got '" + name + "'");
}

ImageView image_view(const py::array& array, const char* name) {
  check_float32(array, name);
  if (array.ndim() != 4)
    throw std::invalid_argument(std::string(name) + " must have 4 dimensions, got " + std::to_string(array.ndim()));
  ImageView view{static_cast<const float*>(array.data()), {}, {}};
  for (int d = 0; d < 4; ++d) {
    view.shape[d] = array.shape(d);
    view.strides[d] = array.strides(d) / static_cast<py::ssize_t>(sizeof(float));
  }
  return view;
}

Tensor tensor_view(const py::array& array, const char* name) {
  Tensor view;
  if (py::isinstance<py::array_t<float>>(array))
    view.dtype = DType::f32;
  else if (py::isinstance<py::array_t<int64_t>>(array))
    view.dtype = DType::i64;
  else if (py::isinstance<py::array_t<bool>>(array))
    view.dtype = DType::boolean;
  else
    throw py::type_error(std::string(name) + " must be float32, int64 or bool");
  if (!is_aligned(array)) throw py::type_error(std::string(name) + " is not aligned in memory");
  if (array.ndim() > kMaxRank)
    throw std::invalid_argument(std::string(name) + " must have at most " + std::to_string(kMaxRank) +
                                " dimensions, got " + std::to_string(array.ndim()));
  view.data = const_cast<void*>(array.data());
  view.rank = static_cast<int>(array.ndim());
  for (int d = 0; d < view.rank; ++d) {
    view.shape[d] = array.shape(d);
    view.strides[d] = array.strides(d) / size_of(view.dtype);
  }
  return view;
}

py::array new_tensor(Tensor& view, bool channels_last) {
  std::array<int, kMaxRank> order{0, 1, 2, 3, 4, 5, 6, 7};
  if (channels_last && view.rank > 2) std::rotate(order.begin() + 1, order.begin() + 2, order.begin() + view.rank);
  int64_t count = 1;
  const int64_t item = size_of(view.dtype);
  std::vector<py::ssize_t> sizes(view.rank), strides(view.rank);
  for (int i = view.rank; i-- > 0;) {
    const int d = order[i];
    sizes[d] = view.shape[d];
    view.strides[d] = count;
    strides[d] = checked_mul(count, item);
    count = checked_mul(count, view.shape[d]);
  }
  py::array array = wrap(view, count, std::move(sizes), std::move(strides));
  view.data = array.mutable_data();
  return array;
}

py::array new_array_like(const Tensor& like) {
  std::vector<py::ssize_t> sizes, strides;
  int64_t count = 1;
  for (int d = 0; d < like.rank; ++d) {
    sizes.push_back(like.shape[d]);
    strides.push_back(checked_mul(like.strides[d], size_of(like.dtype)));
    count = checked_mul(count, like.shape[d]);
  }
  return wrap(like, count, std::move(sizes), std::move(strides));
}

py::array new_array(const std::vector<py::ssize_t>& shape) {
  int64_t count = 1;
  for (py::ssize_t size : shape) count = checked_mul(count, size);
  std::vector<py::ssize_t> strides(shape.size());
  py::ssize_t stride = sizeof(float);
  for (std::size_t d = shape.size(); d-- > 0; stride *= shape[d]) strides[d] = stride;
  return wrap(allocate_aligned<float>(count), shape, std::move(strides));
}

py::array new_image(const Shape4& shape) { return new_channels_last<float>(shape); }
py::array new_index_image(const Shape4& shape) { return new_channels_last<int64_t>(shape); }
py::array new_index32_image(const Shape4& shape) { return new_channels_last<std::int32_t>(shape); }

float* data_of(py::array& array) { return static_cast<float*>(array.mutable_data()); }

OptionalVector::OptionalVector(const std::optional<py::array>& array, int64_t size, const char* name) {
  if (!array) return;
  check_float32(*array, name);
  if (array->ndim() != 1 || array->shape(0) != size)
    throw std::invalid_argument(std::string(name) + " must have shape (" + std::to_string(size) + ",), got " +
                                to_string(array->shape(), static_cast<int>(array->ndim())));
  data_ = static_cast<const float*>(array->data());
  if (size < 2 || array->strides(0) == static_cast<py::ssize_t>(sizeof(float))) return;
  const py::ssize_t stride = array->strides(0) / static_cast<py::ssize_t>(sizeof(float));
  copy_.resize(size);
  for (int64_t i = 0; i < size; ++i) copy_[i] = data_[i * stride];
  data_ = copy_.data();
}

}  // namespace convlane
