// Gathering and scattering by indices; threads never write to the same element.
#include "ops/gather.h"

#include <cstring>
#include <stdexcept>

#include "ops/parallel.h"

namespace convlane {
namespace {

template <class T>
void take_along(const T* src, const Along& along, const int64_t* indices, int64_t chosen, T* dst) {
  const int64_t block = chosen * along.inner;
  parallel_for(along.outer * chosen, threads_for(along.outer * block), [&](int64_t begin, int64_t end, int) noexcept {
    for (int64_t row = begin; row < end; ++row) {
      const T* from = src + row / chosen * along.count * along.inner;
      for (int64_t c = 0; c < along.inner; ++c)
        dst[row * along.inner + c] = from[indices[row * along.inner + c] * along.inner + c];
    }
  });
}

}  // namespace

void check_indices(const int64_t* indices, int64_t count, int64_t size, const char* op) {
  for (int64_t i = 0; i < count; ++i)
    if (indices[i] < 0 || indices[i] >= size)
      throw std::invalid_argument(std::string(op) + ": index " + std::to_string(indices[i]) +
                                  " is out of range for a dimension of " + std::to_string(size));
}

void run_take(const void* src, const Along& along, int64_t item, const int64_t* indices, int64_t chosen, void* dst) {
  const int64_t bytes = along.inner * item;
  const auto* from = static_cast<const char*>(src);
  auto* to = static_cast<char*>(dst);
  parallel_for(along.outer * chosen, threads_for(along.outer * chosen * along.inner),
               [&](int64_t begin, int64_t end, int) noexcept {
                 for (int64_t row = begin; row < end; ++row)
                   std::memcpy(to + row * bytes, from + (row / chosen * along.count + indices[row % chosen]) * bytes,
                               bytes);
               });
}

void run_take_gradient(const float* gradient, const Along& along, const int64_t* indices, int64_t chosen, float* dst) {
  const auto [outer, count, inner] = along;
  parallel_for(outer, threads_for(outer * chosen * inner),
               [&, count = count, inner = inner](int64_t begin, int64_t end, int) noexcept {
                 for (int64_t o = begin; o < end; ++o) {
                   float* to = dst + o * count * inner;
                   std::fill_n(to, count * inner, 0.0f);
                   for (int64_t i = 0; i < chosen; ++i)
                     for (int64_t c = 0; c < inner; ++c)
                       to[indices[i] * inner + c] += gradient[(o * chosen + i) * inner + c];
                 }
               });
}

void run_take_along(const void* src, const Along& along, int64_t item, const int64_t* indices, int64_t chosen,
                    void* dst) {
  if (item == 8)
    take_along(static_cast<const int64_t*>(src), along, indices, chosen, static_cast<int64_t*>(dst));
  else if (item == 4)
    take_along(static_cast<const float*>(src), along, indices, chosen, static_cast<float*>(dst));
  else
    take_along(static_cast<const char*>(src), along, indices, chosen, static_cast<char*>(dst));
}

void run_take_along_gradient(const float* gradient, const Along& along, const int64_t* indices, int64_t chosen,
                             float* dst) {
  const auto [outer, count, inner] = along;
  parallel_for(outer, threads_for(outer * chosen * inner),
               [&, count = count, inner = inner](int64_t begin, int64_t end, int) noexcept {
                 for (int64_t o = begin; o < end; ++o) {
                   float* to = dst + o * count * inner;
                   std::fill_n(to, count * inner, 0.0f);
                   for (int64_t i = 0; i < chosen; ++i)
                     for (int64_t c = 0; c < inner; ++c) {
                       const int64_t at = (o * chosen + i) * inner + c;
                       to[indices[at] * inner + c] += gradient[at];
                     }
                 }
               });
}

void run_put_along(const float* values, const Along& along, const int64_t* indices, int64_t chosen, float* dst) {
  const auto [outer, count, inner] = along;
  constexpr int64_t kBlock = 64;  // columns, which are independent of each other
  const int64_t blocks = ceil_div(inner, kBlock);
  parallel_for(outer * blocks, threads_for(outer * count * inner),
               [&, count = count, inner = inner](int64_t begin, int64_t end, int) noexcept {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t o = task / blocks, first = task % blocks * kBlock;
                   const int64_t last = std::min(inner, first + kBlock);
                   float* to = dst + o * count * inner;
                   for (int64_t i = 0; i < count; ++i) std::fill(to + i * inner + first, to + i * inner + last, 0.0f);
                   for (int64_t i = 0; i < chosen; ++i)
                     for (int64_t c = first; c < last; ++c) {
                       const int64_t at = (o * chosen + i) * inner + c;
                       to[indices[at] * inner + c] = values[at];
                     }
                 }
               });
}

}  // namespace convlane
