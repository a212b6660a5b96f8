// The kernels of one instruction set as a table of function pointers, with their tile sizes beside them. Their
// arguments are described here, what they compute in list.def.
//
// Kernels take raw pointers and 64-bit counts of floats, never allocate, throw or start threads. Images are
// channels last: a pixel is a run of channels, a row a run of pixels.
#pragma once

#include <cstdint>

#include "runtime/cpu.h"

namespace convlane {

using std::int64_t;

enum class Activation : int {
  none,
  relu,
  relu6,
  leaky_relu,
  silu,
  hardswish,
  sigmoid,
  tanh,
  hardsigmoid,
  gelu,
  gelu_tanh,
  elu,
  celu,
  selu,
  softsign,
  mish,
  logsigmoid,
};

// Applied to a sum before it is stored: dst = activation(sum + bias + residual).
struct Epilogue {
  const float* bias = nullptr;      // one per output channel, or null
  const float* residual = nullptr;  // same rows and columns as dst, or null
  int64_t residual_stride = 0;      // floats between rows of the residual
  Activation activation = Activation::none;
  float slope = 0;  // leaky_relu's; alpha of elu and celu
};

// dst[i, j] = epilogue(sum over tap, k of rows[tap][i][row_offset + k] * weight[tap, k, j]).
// The left matrix is never copied: `rows[tap * rows_stride + i]` points at its row. Columns are packed in panels of
// `nr` (the last one as wide as whole vectors allow): [panel][tap][k][column in panel], see pack_panels in ops/.
struct GemmArgs {
  const float* const* rows;
  int64_t rows_stride;  // pointers from one tap to the next
  int64_t row_offset;   // floats added to every row pointer: where this group's channels start
  int64_t m, n;         // rows and columns of dst
  int64_t taps, depth;  // depth: channels per tap
  const float* weight;
  const float* weight_end;  // of all packed weights, including those of other calls: prefetches stop here
  float* dst;
  int64_t dst_stride;  // floats between rows of dst
  bool accumulate;     // sums continue from what dst holds instead of starting from the bias
  Epilogue epilogue;
  // Row pointers equal to this one point at zeros: a tap at which all rows of a register tile do so is skipped. Or
  // null.
  const float* zeros;
  // Where the register tiles begin, with m at the end; if null, rows are split evenly.
  const int64_t* tiles;
  int64_t tile_count;
};

// The matrix product where the taps of a row lie at the same offsets from it: dst[i, j] = epilogue(sum over tap, k <
// depth of rows[i][taps[tap] + k] * weight[tap, k, j]), with weights packed as for GemmArgs.
struct StemArgs {
  const float* const* rows;
  int64_t m, n;
  const int64_t* taps;
  int64_t tap_count, depth;
  const float* weight;
  float* dst;
  int64_t dst_stride;
  Epilogue epilogue;
};

// Groups of channels side by side in a vector: dst[i, j] = epilogue(sum over tap, k < depth of rows[tap][i][row_offset
// + index[k, j]] * weight[tap, k, j]) for j < outputs. Rows of index and weight are whole vectors; `inputs` channels of
// the left matrix are read.
struct GroupedArgs {
  const float* const* rows;
  int64_t rows_stride, row_offset;
  int64_t m, taps, depth;
  int64_t inputs, outputs;
  const std::int32_t* index;
  const float* weight;
  float* dst;
  int64_t dst_stride;
  Epilogue epilogue;
};

// dst[o, x] = bias[o] + sum over taps of src[tap][x] * weight[o, tap] for up to 4 outputs; whole vectors of pixels are
// read and written.
struct PlaneArgs {
  const float* const* src;
  int64_t taps;
  const float* weight;
  const float* bias;  // or null
  int64_t pixels, outputs;
  float* dst;
  int64_t dst_stride;
};

// Depthwise convolution of a band of output rows: dst[y, p, c] = epilogue(sum over r, s of
// rows[y * stride_h + r * dilation_h][column * src_stride + c] * weight[r, s, c]), column = p * stride_w +
// s * dilation_w - left. Rows of padding point at zeros; columns outside [0, width) count as zero. dst must not be the
// residual.
struct DepthwiseArgs {
  const float* const* rows;  // one pointer per input row under the band
  const float* zeros;        // what rows of padding point at; some kernels do not read them
  int64_t src_stride;        // floats between pixels of an input row
  int64_t width, left;       // columns of an input row, columns of padding before them
  int64_t out_rows, out_width, channels;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  const float* weight;    // [kernel_h][kernel_w][channels]
  int64_t weight_stride;  // floats between two taps
  float* dst;             // rows of out_width pixels
  int64_t dst_stride;     // floats between pixels
  // Where to store the sum over each row of dst, channel by channel and added from left to right, or null:
  // [out_rows][channels], with sums_stride between the rows.
  float* sums;
  int64_t sums_stride;
  Epilogue epilogue;
};

// dst[r, c] = activation((src[r, c] - center[c]) * scale[c] + shift[c] + residual[r, c])
struct NormalizeArgs {
  int64_t channels;
  const float *center, *scale, *shift;
  Activation activation = Activation::none;
  float slope = 0;                  // as in Epilogue
  const float* residual = nullptr;  // rows like src's, or null
};

// The gradient of batch normalisation for `channels` channels of rows `row_stride` floats apart.
struct NormGradientArgs {
  int64_t rows, channels, row_stride;
  const float* src;
  const float* gradient;                // of the output
  const float *center, *scale, *shift;  // as in NormalizeArgs
  Activation activation;
  float slope;
  // Where the activation is differentiated: null for the normalised values; else the output or, for activations whose
  // derivative does not follow from it, the residual that was added to them.
  const float* kept;
  bool kept_is_output;
  float* masked;  // the gradient of the activation's input, or null
  // First pass: accumulated into.
  float* sums;      // of the gradient of the activation's input
  float* products;  // of that times (src - center)
  // Second pass: dst = scale * (gradient of the activation's input - offset - (src - center) * factor); a null factor
  // drops the last two terms.
  const float *offset, *factor;
  float* dst;
};

// Layer normalisation of rows: dst[r, c] = (src[r, c] - mean of r) / sqrt(variance of r + eps) * weight[c] + bias[c].
// If not centered, 0 replaces the mean and the mean square replaces the variance.
struct LayerNormArgs {
  int64_t rows, channels;
  bool centered;
  const float* src;
  const float *weight, *bias;
  float eps;
  float* dst;
  // Gradient only, without bias: the output's gradient; dst is the gradient of src, or null. The other two, or null,
  // are accumulated into: the sums over the rows of the gradient times the normalised values, and of the gradient.
  const float* gradient;
  float *products, *sums;
};

// The targets of rows of logits. Class c has the target weight[c] * (own * y[c] + others), where y is a row of
// `probabilities` or, with `targets`, 1 for the row's own class and 0 for the others; a row with a negative target does
// not count. One of the two is null.
struct CrossEntropyArgs {
  int64_t rows, classes;
  const float* src;
  const int64_t* targets;
  const float* probabilities;
  const float* weight;
  float own, others;
  // Gradient only: the gradients of the rows' losses, gradient_step apart; 0 where all rows share one.
  const float* gradient;
  int64_t gradient_step;
  float* dst;  // one number per row; for the gradient, rows like src's
};

// Local response normalisation of pixels: dst = src / (k + alpha * sum of squares over the window)^beta.
struct LocalResponseArgs {
  int64_t channels;
  int64_t before, after;  // channels of the window on either side of its own
  float alpha, beta, k;
  float* scratch;  // before + channels + after + lanes floats; for the gradient twice that, with both paddings doubled
};

enum class Pooling : int { max, average, power };

// A run of output pixels in one row of a pooling: each folds `rows` x `taps` input pixels, all inside the image
// (windows that reach outside are passed with their inner taps only).
struct PoolArgs {
  Pooling kind;
  const float* src;                        // first tap of the first pixel
  int64_t row_step, tap_step, pixel_step;  // floats between rows of taps, taps of a row, windows
  int64_t rows, taps;                      // of one window
  int64_t pixels, channels;
  float* dst;
  int64_t dst_step;  // floats between dst's pixels
  float divisor;     // average: divides the sum
  float exponent;    // power: (scale * sum of |x|^exponent)^(1/exponent)
  float scale;
  // max: where to store each maximum's index in the input's plane, or null; the index of the first pixel's first tap,
  // and its increment at each step.
  int64_t* indices;
  int64_t index, index_row, index_tap, index_pixel;
  std::int32_t* indices32;  // the same in 32 bits, for planes that allow it; at most one of the two is not null
};

// One row of a pooling's input: each pixel gathers gradients from the windows that contain it.
struct PoolGradientArgs {
  const float* gradient;           // of the image's output
  const std::int32_t* indices32;   // of the image's maxima; null for averages
  const float* factors;            // of averages: one per output pixel of the plane
  int64_t y_begin, y_end;          // output rows whose windows may contain this row
  const int64_t *x_begin, *x_end;  // the same for columns, for every pixel
  int64_t width, out_width, channels;
  std::int32_t first_index;  // of the first pixel
  float* dst;
};

// The transform of one input tile for Winograd's F(m x m, 3 x 3): dst[xi][c], xi < (m + 2)^2.
struct WinogradInputArgs {
  int m;                       // 2 or 4
  const float* const* pixels;  // row by row; zeros outside the image
  int64_t channels;
  float* dst;
  int64_t dst_stride;  // floats between two xi
  int64_t next;        // floats from dst to the next tile's, which is prefetched; 0: none
};

// The transform of one output tile: up to m x m pixels from src[xi][c].
struct WinogradOutputArgs {
  int m;
  const float* src;  // readable in whole vectors
  int64_t src_stride;
  int64_t channels;
  float* dst;
  int64_t dst_stride;     // floats between pixels
  int64_t width;          // pixels between rows of dst
  int64_t rows, columns;  // of the tile that lie inside the image
  Epilogue epilogue;
};

enum class Rule : int { sgd, nesterov, rmsprop, adam };

// One step of an optimiser for `count` parameters in a row. With g = gradient_factor * gradient + weight_decay * src:
//   sgd       first = momentum * first + g;  dst = src - lr * first
//   nesterov  first as before;               dst = src - lr * (g + momentum * first)
//   rmsprop   second = average * second + (1 - average) * g^2;  first = momentum * first + g / (sqrt(second) + eps);
//             dst = src - lr * first
//   adam      first = momentum * first + fresh * g;  second as before;
//             dst = shrink * src - lr * first / (correction * sqrt(second) + eps)
struct UpdateArgs {
  int64_t count;
  const float *src, *gradient;
  float* dst;             // may be src
  float *first, *second;  // null where a rule does not need them: they count as zero and are not kept
  float gradient_factor, weight_decay, lr, momentum, average, fresh, correction, shrink, eps;
};

// dst[i, j] = sum over p of a[p][a_offset + i] * b[p][b_offset + j]; with `accumulate`, what dst holds plus that sum.
struct OuterArgs {
  const float* const* a;
  const float* const* b;
  int64_t a_offset, b_offset;
  int64_t count;  // of p
  int64_t rows, columns;
  float* dst;
  int64_t dst_stride;
  bool accumulate;
};

// What a band of output rows adds to the gradient of depthwise filters: dst[r, s, c] = sum over y, x of gradient[y, x,
// c] * rows[y * stride_h + r * dilation_h][column * channels + c], column as in DepthwiseArgs.
struct DepthwiseGradientArgs {
  const float* const* rows;
  const float* zeros;  // as in DepthwiseArgs
  int64_t width, left;
  int64_t out_rows, out_width, channels;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  const float* gradient;  // rows of out_width pixels
  float* dst;             // [kernel_h][kernel_w][channels]
};

// One input row of the gradient of depthwise convolution's input, for square filters of 3 or 5 taps with stride 2:
// dst[x, c] = sum over i < count, and over j, s with 2 j + s = x + left, of rows[i][j, c] * weights[i][s, c].
struct DepthwiseInputGradientArgs {
  const float* rows[3];     // rows of the output's gradient that contribute to the input row
  const float* weights[3];  // the taps that connect them, [kernel][channels]
  int64_t count, kernel;
  int64_t row_width;  // pixels of `rows`
  int64_t left;       // columns of padding
  int64_t width, channels;
  float* dst;
};

enum class Unary : int {
  neg,
  abs,
  sign,
  square,
  sqrt,
  rsqrt,
  reciprocal,
  exp,
  log,
  log1p,
  sin,
  cos,
  erf,
  floor,
  ceil,
  round,
  clamp,      // between `first` and `second`
  affine,     // x * first + second, rounded twice
  threshold,  // `second` where x <= first
  softplus,   // log(1 + e^(first x)) / first; x where first x > second
  softplus_slope,
};
enum class Binary : int { add, sub, mul, div, pow, maximum, minimum, prelu };
enum class Comparison : int { eq, ne, lt, le, gt, ge };

// A matrix of numbers: the element in row r and column c is data[r * row + c * step].
struct Operand {
  const float* data;
  int64_t row, step;
};

// Functions of one number or of two, for matrices whose result rows are dense or `dst_row` apart. dst may be an operand
// of the same strides.
struct UnaryArgs {
  Unary op;
  float first, second;
  Operand src;
  int64_t rows, columns;
  float* dst;
  int64_t dst_row;
};

struct BinaryArgs {
  Binary op;
  Operand a, b;
  int64_t rows, columns;
  float* dst;
  int64_t dst_row;
};

struct ComparisonArgs {
  Comparison op;
  Operand a, b;
  int64_t rows, columns;
  std::uint8_t* dst;  // 0 or 1
  int64_t dst_row;
};

// dst = a where the condition is not 0, else b.
struct WhereArgs {
  const std::uint8_t* condition;
  int64_t condition_row, condition_step;
  Operand a, b;
  int64_t rows, columns;
  float* dst;
  int64_t dst_row;
};

enum class Reduction : int { sum, squares, product, maximum, minimum };  // squares: of deviations from a given number

// A coefficient of a filter, for the number `offset` elements after the first of a row.
template <class T>
struct FilterTap {
  int64_t row, offset;
  T weight;
};

// dst[x] = sum over taps of rows[row][x + offset] * weight for x < count
template <class T>
struct FilterArgs {
  const T* const* rows;
  const FilterTap<T>* taps;
  int64_t tap_count, count;
  T* dst;
};

// Maximum number of columns of a panel: buffers on the stack have this size.
constexpr int kMostPanelColumns = 64;

// A matrix product with the properties its callers need for packing and splitting. Args defines the operands.
template <class Args>
struct GemmKernel {
  void (*run)(const Args&);
  int mr, nr;   // rows and columns of the register tile; panels are nr columns wide
  int narrow;   // the last panel's width if it has no more columns than this
  int k_group;  // consecutive products of a sum that are adjacent in a panel, as one instruction adds them
  int64_t long_sum, sum_block;  // sums of more products than long_sum are sums of blocks of sum_block

  // Width of the panel that starts `columns` columns before the end.
  constexpr int64_t panel_width(int64_t columns) const { return columns <= narrow ? narrow : nr; }
};

struct KernelTable {
  Isa isa;
  int lanes;  // floats per vector
  GemmKernel<GemmArgs> gemm;
#define CONVLANE_KERNEL(result, name, parameters) result(*name) parameters;
#include "kernels/list.def"
};

// Whether every kernel is set, and ops/ can pack panels for it.
constexpr bool is_complete(const KernelTable& table) {
#define CONVLANE_KERNEL(result, name, parameters) \
  if (table.name == nullptr) return false;
#include "kernels/list.def"
  const auto& gemm = table.gemm;
  return gemm.run != nullptr && gemm.k_group == 1 && gemm.narrow <= gemm.nr && gemm.nr <= kMostPanelColumns;
}

void fill_generic(KernelTable&);
void fill_avx2(KernelTable&);
void fill_avx512(KernelTable&);

bool is_compiled(Isa isa);

// The table that new work uses: the best one compiled that the CPU supports, until set_active_isa.
const KernelTable& active_table();

// The table of `isa`, or null when it was not compiled or the CPU lacks it.
const KernelTable* table_for(Isa isa);

// By name; std::invalid_argument lists the available ones when `name` is not among them.
void set_active_isa(const char* name);

}  // namespace convlane
