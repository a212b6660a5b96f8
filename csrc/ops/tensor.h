// Arrays of any rank as the general operations see them: a pointer, a type, and sizes and strides in elements.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace convlane {

using std::int64_t;

enum class DType : std::uint8_t { f32, i64, boolean };

inline constexpr int64_t size_of(DType type) { return type == DType::f32 ? 4 : type == DType::i64 ? 8 : 1; }

constexpr int kMaxRank = 8;
using Extents = std::array<int64_t, kMaxRank>;

struct Tensor {
  void* data = nullptr;  // never written to where the tensor is an argument
  DType dtype = DType::f32;
  int rank = 0;
  Extents shape{};
  Extents strides{};  // any sign, 0 where broadcast

  int64_t count() const {
    int64_t product = 1;
    for (int axis = 0; axis < rank; ++axis) product *= shape[axis];
    return product;
  }
  float* floats() const { return static_cast<float*>(data); }
};

inline bool same_shape(const Tensor& a, const Tensor& b) {
  return a.rank == b.rank && std::equal(a.shape.begin(), a.shape.begin() + a.rank, b.shape.begin());
}
inline bool same_type(const Tensor& a, const Tensor& b) { return a.dtype == b.dtype && same_shape(a, b); }

}  // namespace convlane
