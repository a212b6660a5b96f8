// Winograd's minimal filtering F(m x m, 3 x 3), m = 2 or 4: transforms of input tiles and of sums (A. Lavin, S. Gray,
// arXiv 1509.09308). Between the two, gemm computes (m + 2)^2 matrix products. Lanes are channels.
//
// The points of F(4, 3) are 0, +-sqrt(1/2), +-sqrt(2) and infinity: in float32 their error is 1.9 times a direct sum's,
// that of the textbook's 0, +-1, +-2 is 4.1 times (a NumPy experiment against float64, 64 channels; the tests hold the
// kernel to 2.5).
#pragma once

#include "kernels/activation.inl"
#include "kernels/table.h"
#include "kernels/vec.h"

namespace convlane {
namespace {

constexpr float kRoot = 1.41421356237309505f;

// One dimension of the transforms; `In` and `Out` are arrays of vectors (or references to strided ones).
template <int M>
struct Winograd;

template <>
struct Winograd<2> {
  static CONVLANE_INLINE void input(const Vec (&d)[4], Vec (&v)[4]) {
    v[0] = sub(d[0], d[2]);
    v[1] = add(d[1], d[2]);
    v[2] = sub(d[2], d[1]);
    v[3] = sub(d[3], d[1]);
  }
  static CONVLANE_INLINE void output(const Vec (&m)[4], Vec (&y)[2]) {
    y[0] = add(m[0], add(m[1], m[2]));
    y[1] = add(sub(m[1], m[2]), m[3]);
  }
};

template <>
struct Winograd<4> {
  static CONVLANE_INLINE void input(const Vec (&d)[6], Vec (&v)[6]) {
    const Vec two = broadcast(2.0f), half = broadcast(0.5f), five_halves = broadcast(2.5f);
    const Vec root = broadcast(kRoot), half_root = broadcast(kRoot / 2);
    v[0] = fnma(five_halves, d[2], add(d[0], d[4]));
    v[5] = fnma(five_halves, d[3], add(d[1], d[5]));
    const Vec e1 = fnma(two, d[2], d[4]), o1 = fnma(root, d[1], mul(half_root, d[3]));
    v[1] = add(e1, o1);
    v[2] = sub(e1, o1);
    const Vec e2 = fnma(half, d[2], d[4]), o2 = fnma(half_root, d[1], mul(root, d[3]));
    v[3] = add(e2, o2);
    v[4] = sub(e2, o2);
  }
  static CONVLANE_INLINE void output(const Vec (&m)[6], Vec (&y)[4]) {
    const Vec p = add(m[1], m[2]), q = sub(m[1], m[2]), s = add(m[3], m[4]), t = sub(m[3], m[4]);
    y[0] = add(m[0], add(p, s));
    y[1] = fma(broadcast(kRoot), t, mul(broadcast(kRoot / 2), q));
    y[2] = fma(broadcast(2.0f), s, mul(broadcast(0.5f), p));
    y[3] = add(fma(broadcast(2 * kRoot), t, mul(broadcast(kRoot / 4), q)), m[5]);
  }
  // The transposed transform of `output`.
  static CONVLANE_INLINE void output_gradient(const Vec (&y)[4], Vec (&m)[6]) {
    const Vec e1 = fma(broadcast(0.5f), y[2], y[0]),
              o1 = fma(broadcast(kRoot / 2), y[1], mul(broadcast(kRoot / 4), y[3]));
    const Vec e2 = fma(broadcast(2.0f), y[2], y[0]), o2 = fma(broadcast(kRoot), y[1], mul(broadcast(2 * kRoot), y[3]));
    m[0] = y[0];
    m[1] = add(e1, o1);
    m[2] = sub(e1, o1);
    m[3] = add(e2, o2);
    m[4] = sub(e2, o2);
    m[5] = y[3];
  }
  // The transposed transform of `filter_points`.
  static CONVLANE_INLINE void filter_gradient(const Vec (&m)[6], Vec (&g)[3]) {
    const Vec p = add(m[1], m[2]), q = sub(m[2], m[1]), s = add(m[3], m[4]), t = sub(m[3], m[4]);
    g[0] = fma(broadcast(1.0f / 6), s, fnma(broadcast(2.0f / 3), p, m[0]));
    g[1] = fma(broadcast(kRoot / 6), t, mul(broadcast(kRoot / 3), q));
    g[2] = fma(broadcast(1.0f / 3), sub(s, p), m[5]);
  }
};

// G x for kLanes vectors x of 3 numbers, in float64, so that filters are rounded once. The rows of G are a_j^k / prod
// over l != j of (a_j - a_l) for the points a, scaled by the reciprocal of the input transform's scaling.
template <int M>
CONVLANE_INLINE void filter_points(const double (&x)[3][kLanes], double (&y)[M + 2][kLanes]) {
  constexpr double kWideRoot = 1.41421356237309504880;
  for (int l = 0; l < kLanes; ++l) {
    const double a = x[0][l], b = x[1][l], c = x[2][l];
    y[0][l] = a;
    if constexpr (M == 2) {
      y[1][l] = (a + c + b) / 2;
      y[2][l] = (a + c - b) / 2;
    } else {
      const double even = (-2.0 / 3) * a - (1.0 / 3) * c, odd = (kWideRoot / 3) * b;
      y[1][l] = even - odd;
      y[2][l] = even + odd;
      const double even2 = (1.0 / 6) * a + (1.0 / 3) * c, odd2 = (kWideRoot / 6) * b;
      y[3][l] = even2 + odd2;
      y[4][l] = even2 - odd2;
    }
    y[M + 1][l] = c;
  }
}

// G g G^T of every filter g.
template <int M>
void transform_filters(const float* src, int64_t width, float* dst, int64_t dst_stride) {
  constexpr int N = M + 2;
  for (int64_t c = 0; c < width; c += kLanes) {
    double rows[N][3][kLanes];  // G g
    for (int s = 0; s < 3; ++s) {
      double x[3][kLanes], y[N][kLanes];
      for (int r = 0; r < 3; ++r)
        for (int l = 0; l < kLanes; ++l) x[r][l] = src[(3 * r + s) * width + c + l];
      filter_points<M>(x, y);
      for (int i = 0; i < N; ++i)
        for (int l = 0; l < kLanes; ++l) rows[i][s][l] = y[i][l];
    }
    for (int i = 0; i < N; ++i) {
      double y[N][kLanes];
      filter_points<M>(rows[i], y);
      for (int j = 0; j < N; ++j)
        for (int l = 0; l < kLanes; ++l) dst[(i * N + j) * dst_stride + c + l] = static_cast<float>(y[j][l]);
    }
  }
}

// One dimension of the transforms that start from pixels.
template <int M>
struct InputPoints {
  static constexpr int kIn = M + 2, kOut = M + 2;
  static CONVLANE_INLINE void run(const Vec (&d)[kIn], Vec (&v)[kOut]) { Winograd<M>::input(d, v); }
};

struct OutputGradientPoints {
  static constexpr int kIn = 4, kOut = 6;
  static CONVLANE_INLINE void run(const Vec (&y)[kIn], Vec (&m)[kOut]) { Winograd<4>::output_gradient(y, m); }
};

// Stores that miss the first-level cache stall each other, so the lines of the next tile are prefetched.
template <class Points>
CONVLANE_INLINE void transform_tile(const WinogradInputArgs& a) {
  constexpr int In = Points::kIn, Out = Points::kOut;
  for (int64_t c = 0; c < a.channels; c += kLanes) {
    const int lanes = static_cast<int>(a.channels - c < kLanes ? a.channels - c : kLanes);
    Vec columns[Out][In];  // [transformed row][column]
    CONVLANE_UNROLL
    for (int j = 0; j < In; ++j) {
      Vec d[In], v[Out];
      CONVLANE_UNROLL
      for (int i = 0; i < In; ++i) {
        const float* from = a.pixels[i * In + j] + c;
        d[i] = lanes == kLanes ? load(from) : load(from, lanes);
      }
      Points::run(d, v);
      CONVLANE_UNROLL
      for (int i = 0; i < Out; ++i) columns[i][j] = v[i];
    }
    CONVLANE_UNROLL
    for (int i = 0; i < Out; ++i) {
      Vec v[Out];
      Points::run(columns[i], v);
      float* to = a.dst + i * Out * a.dst_stride + c;
      CONVLANE_UNROLL
      for (int j = 0; j < Out; ++j, to += a.dst_stride) {
        prefetch(to + a.next);
        if (lanes == kLanes)
          store(to, v[j]);
        else
          store(to, v[j], lanes);
      }
    }
  }
}

template <int M>
void winograd_output_tile(const WinogradOutputArgs& a) {
  constexpr int N = M + 2;
  const Clamp clamp(a.epilogue.activation);
  for (int64_t c = 0; c < a.channels; c += kLanes) {
    const int lanes = static_cast<int>(a.channels - c < kLanes ? a.channels - c : kLanes);
    Vec rows[M][N];  // [output row][column]
    CONVLANE_UNROLL
    for (int j = 0; j < N; ++j) {
      Vec m[N], y[M];
      CONVLANE_UNROLL
      for (int i = 0; i < N; ++i) m[i] = load(a.src + (i * N + j) * a.src_stride + c);
      Winograd<M>::output(m, y);
      CONVLANE_UNROLL
      for (int i = 0; i < M; ++i) rows[i][j] = y[i];
    }
    const Vec bias = a.epilogue.bias == nullptr ? zero() : load(a.epilogue.bias + c, lanes);
    for (int i = 0; i < M && i < a.rows; ++i) {
      Vec y[M];
      Winograd<M>::output(rows[i], y);
      CONVLANE_UNROLL
      for (int j = 0; j < M; ++j) {
        if (j >= a.columns) break;
        const int64_t pixel = i * a.width + j;
        float* to = a.dst + pixel * a.dst_stride + c;
        Vec sum = add(y[j], bias);
        if (a.epilogue.residual != nullptr)
          sum = add(sum, load(a.epilogue.residual + pixel * a.epilogue.residual_stride + c, lanes));
        if (lanes == kLanes)
          store(to, clamp(sum));
        else
          store(to, clamp(sum), lanes);
      }
    }
  }
  if (is_clamp(a.epilogue.activation)) return;
  for (int i = 0; i < M && i < a.rows; ++i)
    activate_rows(a.dst + i * a.width * a.dst_stride, a.columns < M ? a.columns : M, a.dst_stride, a.channels,
                  a.epilogue);
}

// G^T m G of every m.
void winograd_filters_gradient(const float* src, int64_t src_stride, int64_t columns, float* dst, int64_t dst_stride) {
  constexpr int N = 6;
  for (int64_t c = 0; c < columns; c += kLanes) {
    const int lanes = static_cast<int>(columns - c < kLanes ? columns - c : kLanes);
    Vec rows[3][N];  // [tap row][column of m]
    CONVLANE_UNROLL
    for (int j = 0; j < N; ++j) {
      Vec m[N], g[3];
      CONVLANE_UNROLL
      for (int i = 0; i < N; ++i) m[i] = load(src + (i * N + j) * src_stride + c, lanes);
      Winograd<4>::filter_gradient(m, g);
      CONVLANE_UNROLL
      for (int i = 0; i < 3; ++i) rows[i][j] = g[i];
    }
    CONVLANE_UNROLL
    for (int i = 0; i < 3; ++i) {
      Vec g[3];
      Winograd<4>::filter_gradient(rows[i], g);
      CONVLANE_UNROLL
      for (int j = 0; j < 3; ++j) store(dst + (3 * i + j) * dst_stride + c, g[j], lanes);
    }
  }
}

void winograd_filters(int m, const float* src, int64_t width, float* dst, int64_t dst_stride) {
  m == 2 ? transform_filters<2>(src, width, dst, dst_stride) : transform_filters<4>(src, width, dst, dst_stride);
}

void winograd_input(const WinogradInputArgs& a) {
  a.m == 2 ? transform_tile<InputPoints<2>>(a) : transform_tile<InputPoints<4>>(a);
}

void winograd_output_gradient(const WinogradInputArgs& a) { transform_tile<OutputGradientPoints>(a); }

void winograd_output(const WinogradOutputArgs& a) {
  a.m == 2 ? winograd_output_tile<2>(a) : winograd_output_tile<4>(a);
}

}  // namespace
}  // namespace convlane
