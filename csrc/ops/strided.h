// Loops over arrays of one shape and any strides, in as few dimensions as the strides allow.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "ops/parallel.h"
#include "ops/tensor.h"
#include "runtime/buffer.h"

namespace convlane {

// Offsets into several arrays, in elements.
template <int Arrays>
using Offsets = std::array<int64_t, Arrays>;

template <int Arrays>
struct Loop {
  int rank = 0;
  Extents shape{};
  std::array<Offsets<Arrays>, kMaxRank> strides{};  // [dimension][array]

  int64_t count(int first, int last) const {
    int64_t product = 1;
    for (int d = first; d < last; ++d) product *= shape[d];
    return product;
  }

  void append(int64_t size, const Offsets<Arrays>& steps) {
    shape[rank] = size;
    strides[rank++] = steps;
  }

  // Merges neighbouring dimensions that a single stride covers in every array.
  void merge() {
    int last = 0;
    for (int d = 1; d < rank; ++d) {
      bool joins = true;
      for (int i = 0; i < Arrays; ++i) joins &= strides[last][i] == shape[d] * strides[d][i];
      if (joins) {
        shape[last] *= shape[d];
      } else {
        shape[++last] = shape[d];
      }
      strides[last] = strides[d];
    }
    rank = rank == 0 ? 0 : last + 1;
  }

  // Calls body(offsets) for the positions [begin, end) of the dimensions [first, last), in order.
  template <class Body>
  void walk(int first, int last, int64_t begin, int64_t end, const Body& body) const {
    if (begin >= end) return;
    Offsets<Arrays> at{};
    Extents index{};
    int64_t left = begin;
    for (int d = last; d-- > first; left /= shape[d]) {
      index[d] = left % shape[d];
      for (int i = 0; i < Arrays; ++i) at[i] += index[d] * strides[d][i];
    }
    for (int64_t position = begin; position < end; ++position) {
      body(at);
      for (int d = last; d-- > first;) {
        for (int i = 0; i < Arrays; ++i) at[i] += strides[d][i];
        if (++index[d] < shape[d]) break;
        for (int i = 0; i < Arrays; ++i) at[i] -= shape[d] * strides[d][i];
        index[d] = 0;
      }
    }
  }
};

// As std::stable_sort(), which would allocate.
template <class Iterator, class Before>
void sort_few(Iterator begin, Iterator end, const Before& before) {
  for (Iterator next = begin; next != end; ++next)
    std::rotate(std::upper_bound(begin, next, *next, before), next, next + 1);
}

// Loops over the elements of arrays that have the first one's shape, with its largest strides outermost.
template <int Arrays>
Loop<Arrays> loop_over(const std::array<const Tensor*, Arrays>& arrays) {
  std::array<int, kMaxRank> order{};
  int count = 0;
  for (int d = 0; d < arrays[0]->rank; ++d)
    if (arrays[0]->shape[d] != 1) order[count++] = d;
  const auto outer = [&](int a, int b) {
    for (const Tensor* array : arrays) {
      const int64_t first = std::abs(array->strides[a]), second = std::abs(array->strides[b]);
      if (first != second) return first > second;
    }
    return false;
  };
  sort_few(order.begin(), order.begin() + count, outer);
  Loop<Arrays> loop;
  for (int i = 0; i < count; ++i) {
    Offsets<Arrays> steps{};
    for (int array = 0; array < Arrays; ++array) steps[array] = arrays[array]->strides[order[i]];
    loop.append(arrays[0]->shape[order[i]], steps);
  }
  loop.merge();
  return loop;
}

// Splits a loop among threads into tiles of at most rows x columns of the two innermost dimensions: body(offsets, rows,
// columns), noexcept. A tile's columns advance by the last strides, its rows by the second to last.
template <int Arrays, class Body>
void parallel_tiles(Loop<Arrays> loop, int64_t rows, int64_t columns, int threads, const Body& body) {
  while (loop.rank < 2) {
    for (int d = loop.rank; d > 0; --d) {
      loop.shape[d] = loop.shape[d - 1];
      loop.strides[d] = loop.strides[d - 1];
    }
    loop.shape[0] = 1;
    loop.strides[0] = {};
    ++loop.rank;
  }
  const int last = loop.rank - 1;
  const int64_t height = loop.shape[last - 1], width = loop.shape[last];
  if (loop.count(0, loop.rank) == 0) return;
  const int64_t row_tiles = ceil_div(height, rows), column_tiles = ceil_div(width, columns);
  const int64_t tiles = row_tiles * column_tiles, outer = loop.count(0, last - 1);
  parallel_for(outer * tiles, threads, [&](int64_t begin, int64_t end, int) noexcept {
    int64_t task = begin;
    loop.walk(0, last - 1, begin / tiles, ceil_div(end, tiles), [&](const Offsets<Arrays>& at) {
      const int64_t first = task - task % tiles;
      for (; task < std::min(end, first + tiles); ++task) {
        const int64_t r = (task - first) / column_tiles * rows, c = (task - first) % column_tiles * columns;
        Offsets<Arrays> offsets = at;
        for (int i = 0; i < Arrays; ++i) offsets[i] += r * loop.strides[last - 1][i] + c * loop.strides[last][i];
        body(offsets, std::min(rows, height - r), std::min(columns, width - c));
      }
    });
  });
}

}  // namespace convlane
