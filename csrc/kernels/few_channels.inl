// Convolutions whose channels leave most lanes of the matrix kernel's vectors empty: many small groups, few outputs,
// and a few channels to a few.
#pragma once

#include "kernels/activation.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

constexpr int kGroupedRows = kRegisters == 32 ? 12 : 6;  // a sum and an input each

// A pixel's input is loaded once for each tap; for each product of a group the lanes select theirs from it.
template <int Rows>
void grouped_tile(const GroupedArgs& g, int64_t row) {
  const int inputs = static_cast<int>(g.inputs), outputs = static_cast<int>(g.outputs);
  const Vec bias = g.epilogue.bias == nullptr ? zero() : load(g.epilogue.bias, outputs);
  Vec sum[Rows];
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) sum[i] = bias;
  const float* weight = g.weight;
  for (int64_t tap = 0; tap < g.taps; ++tap) {
    const float* const* rows = g.rows + tap * g.rows_stride + row;
    Vec x[Rows];
    CONVLANE_UNROLL
    for (int i = 0; i < Rows; ++i) {
      const float* from = rows[i] + g.row_offset;
      x[i] = inputs == kLanes ? load(from) : load(from, inputs);
    }
    for (int64_t k = 0; k < g.depth; ++k, weight += kLanes) {
      const Vec w = load(weight);
      const IntVec index = load_int(g.index + k * kLanes);
      CONVLANE_UNROLL
      for (int i = 0; i < Rows; ++i) sum[i] = fma(permute(x[i], index), w, sum[i]);
    }
  }
  const Clamp clamp(g.epilogue.activation);
  float* dst = g.dst + row * g.dst_stride;
  const float* residual =
      g.epilogue.residual == nullptr ? nullptr : g.epilogue.residual + row * g.epilogue.residual_stride;
  for (int i = 0; i < Rows; ++i) {
    const Vec y = residual == nullptr ? sum[i] : add(sum[i], load(residual + i * g.epilogue.residual_stride, outputs));
    store(dst + i * g.dst_stride, clamp(y), outputs);
  }
  if (!is_clamp(g.epilogue.activation)) activate_rows(dst, Rows, g.dst_stride, outputs, g.epilogue);
}

template <int Rows = kGroupedRows>
CONVLANE_INLINE void grouped_tile_of(int64_t rows, const GroupedArgs& g, int64_t row) {
  if (rows == Rows) return grouped_tile<Rows>(g, row);
  if constexpr (Rows > 1) grouped_tile_of<Rows - 1>(rows, g, row);
}

void grouped(const GroupedArgs& g) {
  const int64_t tiles = (g.m + kGroupedRows - 1) / kGroupedRows;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t row = g.m * tile / tiles;
    grouped_tile_of(g.m * (tile + 1) / tiles - row, g, row);
  }
}

// The sums, one weight of each column and an input fit into the registers.
template <int Columns>
constexpr int kDotRows = kRegisters == 32   ? (24 / Columns > 8 ? 8 : 24 / Columns)
                         : 12 / Columns > 8 ? 8
                                            : 12 / Columns;

// One vector of sums for each row and column: lane l adds up the products k = l, l + kLanes and so on of every tap, and
// the lanes are summed at the end.
template <int Rows, int Columns>
void dot_tile(const GemmArgs& g, int64_t row) {
  Vec sum[Rows][Columns];
  CONVLANE_UNROLL
  for (int i = 0; i < Rows; ++i) {
    CONVLANE_UNROLL
    for (int j = 0; j < Columns; ++j) sum[i][j] = zero();
  }
  const int64_t length = g.taps * g.depth;
  for (int64_t tap = 0; tap < g.taps; ++tap) {
    const float* weight = g.weight + tap * g.depth;
    const float* src[Rows];
    CONVLANE_UNROLL
    for (int i = 0; i < Rows; ++i) src[i] = g.rows[tap * g.rows_stride + row + i];
    const auto step = [&](int64_t k, auto get) {
      Vec w[Columns];
      CONVLANE_UNROLL
      for (int j = 0; j < Columns; ++j) w[j] = get(weight + j * length + k);
      CONVLANE_UNROLL
      for (int i = 0; i < Rows; ++i) {
        const Vec x = get(src[i] + k);
        CONVLANE_UNROLL
        for (int j = 0; j < Columns; ++j) sum[i][j] = fma(x, w[j], sum[i][j]);
      }
    };
    int64_t k = 0;
    for (; k + kLanes <= g.depth; k += kLanes) step(k, [](const float* p) { return load(p); });
    if (const int tail = static_cast<int>(g.depth - k)) step(k, [tail](const float* p) { return load(p, tail); });
  }
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Columns; ++j) {
      float y = sum_lanes(sum[i][j]);
      if (g.epilogue.bias != nullptr) y += g.epilogue.bias[j];
      if (g.epilogue.residual != nullptr) y += g.epilogue.residual[(row + i) * g.epilogue.residual_stride + j];
      g.dst[(row + i) * g.dst_stride + j] = y;
    }
  }
}

template <int Columns, int Rows = kDotRows<Columns>>
CONVLANE_INLINE void dot_tile_of(int64_t rows, const GemmArgs& g, int64_t row) {
  if (rows == Rows) return dot_tile<Rows, Columns>(g, row);
  if constexpr (Rows > 1) dot_tile_of<Columns, Rows - 1>(rows, g, row);
}

template <int Columns>
void dot_columns(const GemmArgs& g) {
  for (int64_t row = 0; row < g.m; row += kDotRows<Columns>) {
    const int64_t left = g.m - row;
    dot_tile_of<Columns>(left < kDotRows<Columns> ? left : kDotRows<Columns>, g, row);
  }
}

void dot_rows(const GemmArgs& g) {
  if (g.n == 1) dot_columns<1>(g);
  if (g.n == 2) dot_columns<2>(g);
  if (g.n == 3) dot_columns<3>(g);
  if (g.n == 4) dot_columns<4>(g);
  if (g.epilogue.activation == Activation::none) return;
  const bool dense = g.dst_stride == g.n;
  activate_rows(g.dst, dense ? 1 : g.m, g.dst_stride, dense ? g.m * g.n : g.n, g.epilogue);
}

// Several vectors of pixels at once.
template <int Outputs>
constexpr int kPlaneVectors = kRegisters == 32   ? (24 / Outputs > 8 ? 8 : 24 / Outputs)
                              : 11 / Outputs > 8 ? 8
                                                 : 11 / Outputs;

template <int Vectors, int Outputs>
void plane_tile(const PlaneArgs& p, int64_t x) {
  Vec sum[Vectors][Outputs];
  CONVLANE_UNROLL
  for (int j = 0; j < Outputs; ++j) {
    const Vec bias = broadcast(p.bias == nullptr ? 0.0f : p.bias[j]);
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) sum[v][j] = bias;
  }
  for (int64_t tap = 0; tap < p.taps; ++tap) {
    const float* src = p.src[tap] + x;
    Vec w[Outputs];
    CONVLANE_UNROLL
    for (int j = 0; j < Outputs; ++j) w[j] = broadcast(p.weight[j * p.taps + tap]);
    CONVLANE_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const Vec pixels = load(src + v * kLanes);
      CONVLANE_UNROLL
      for (int j = 0; j < Outputs; ++j) sum[v][j] = fma(pixels, w[j], sum[v][j]);
    }
  }
  for (int j = 0; j < Outputs; ++j)
    for (int v = 0; v < Vectors; ++v) store(p.dst + j * p.dst_stride + x + v * kLanes, sum[v][j]);
}

template <int Outputs, int Vectors = kPlaneVectors<Outputs>>
CONVLANE_INLINE void plane_tile_of(int64_t vectors, const PlaneArgs& p, int64_t x) {
  if (vectors == Vectors) return plane_tile<Vectors, Outputs>(p, x);
  if constexpr (Vectors > 1) plane_tile_of<Outputs, Vectors - 1>(vectors, p, x);
}

template <int Outputs>
void plane_outputs(const PlaneArgs& p) {
  const int64_t vectors = (p.pixels + kLanes - 1) / kLanes;
  for (int64_t v = 0; v < vectors; v += kPlaneVectors<Outputs>) {
    const int64_t left = vectors - v;
    plane_tile_of<Outputs>(left < kPlaneVectors<Outputs> ? left : kPlaneVectors<Outputs>, p, v * kLanes);
  }
}

void convolve_planes(const PlaneArgs& p) {
  if (p.outputs == 1) plane_outputs<1>(p);
  if (p.outputs == 2) plane_outputs<2>(p);
  if (p.outputs == 3) plane_outputs<3>(p);
  if (p.outputs == 4) plane_outputs<4>(p);
}

}  // namespace
}  // namespace convlane
