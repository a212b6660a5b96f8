#include "ops/tensor_copy.h"

#include <stdexcept>

#include "kernels/table.h"
#include "ops/strided.h"
#include "ops/view.h"

namespace convlane {
namespace {

constexpr int64_t kTile = 4096;  // elements that a tile moves at least, if there are as many
constexpr int64_t kSquare = 64;  // sides of a tile that is transposed

template <class T>
void copy_row(const T* src, int64_t src_step, T* dst, int64_t dst_step, int64_t count) noexcept {
  if (dst_step != 1) {
    for (int64_t i = 0; i < count; ++i) dst[i * dst_step] = src[i * src_step];
  } else if (src_step == 1) {
    std::copy_n(src, count, dst);
  } else if (src_step == 0) {
    std::fill_n(dst, count, *src);
  } else if (src_step == -1) {  // kept separate so that it is vectorised
    for (int64_t i = 0; i < count; ++i) dst[i] = src[-i];
  } else {
    for (int64_t i = 0; i < count; ++i) dst[i] = src[i * src_step];
  }
}

// Makes the dimension along which src is dense the second to last of the loop, if it is not the last.
bool transposes(Loop<2>& loop) {
  const int last = loop.rank - 1;
  if (last < 1 || loop.strides[last][0] != 1 || loop.strides[last][1] == 1) return false;
  for (int d = 0; d < last; ++d) {
    if (loop.strides[d][1] != 1) continue;
    for (int e = d; e + 1 < last; ++e) {
      std::swap(loop.shape[e], loop.shape[e + 1]);
      std::swap(loop.strides[e], loop.strides[e + 1]);
    }
    return true;
  }
  return false;
}

// dst[j * dst_row + i] = src[i * src_row + j]
template <class T>
void transpose_tile(const T* src, int64_t src_row, T* dst, int64_t dst_row, int64_t rows, int64_t columns) noexcept {
  for (int64_t j = 0; j < columns; ++j)
    for (int64_t i = 0; i < rows; ++i) dst[j * dst_row + i] = src[i * src_row + j];
}

template <class T>
void copy(const Tensor& src, const Tensor& dst) {
  const T* from = static_cast<const T*>(src.data);
  T* to = static_cast<T*>(dst.data);
  Loop<2> loop = loop_over<2>({&dst, &src});
  const int threads = threads_for(dst.count());
  if (transposes(loop)) {
    const int64_t src_row = loop.strides[loop.rank - 1][1], dst_row = loop.strides[loop.rank - 2][0];
    const auto transpose = active_table().transpose;
    const int64_t width = loop.shape[loop.rank - 1];
    parallel_tiles(loop, std::max(kSquare, kTile / std::max<int64_t>(width, 1)), kSquare, threads,
                   [=](const Offsets<2>& at, int64_t rows, int64_t columns) noexcept {
                     if constexpr (std::is_same_v<T, float>)
                       transpose(from + at[1], src_row, to + at[0], dst_row, columns, rows);
                     else
                       transpose_tile(from + at[1], src_row, to + at[0], dst_row, columns, rows);
                   });
    return;
  }
  const int last = loop.rank - 1;
  const Offsets<2> step = last < 0 ? Offsets<2>{1, 1} : loop.strides[last];
  const Offsets<2> row = last < 1 ? Offsets<2>{} : loop.strides[last - 1];
  const int64_t width = last < 0 ? 1 : loop.shape[last];
  parallel_tiles(loop, std::max<int64_t>(1, kTile / std::max<int64_t>(width, 1)), kTile, threads,
                 [=](const Offsets<2>& at, int64_t rows, int64_t columns) noexcept {
                   for (int64_t r = 0; r < rows; ++r)
                     copy_row(from + at[1] + r * row[1], step[1], to + at[0] + r * row[0], step[0], columns);
                 });
}

}  // namespace

void run_copy(const Tensor& src, const Tensor& dst) {
  if (src.dtype != dst.dtype) throw std::invalid_argument("copy: the arrays hold different types");
  if (!same_shape(src, dst))
    throw std::invalid_argument("copy: shape " + to_string(src.shape.data(), src.rank) + " does not fit " +
                                to_string(dst.shape.data(), dst.rank));
  switch (dst.dtype) {
    case DType::f32:
      return copy<float>(src, dst);
    case DType::i64:
      return copy<int64_t>(src, dst);
    case DType::boolean:
      return copy<std::uint8_t>(src, dst);
  }
}

}  // namespace convlane
