// The kernels of one instruction set as a table of function pointers, with their tile sizes beside them.
//
// Kernels take raw pointers and 64-bit counts of floats, never allocate, throw or start threads. Images are
// channels last: a pixel is a run of channels, a row a run of pixels.
#pragma once

#include <cstdint>

#include "runtime/cpu.h"

namespace convlane {

using std::int64_t;

enum class Activation : int { none, relu, relu6, leaky_relu, silu, hardswish, sigmoid, tanh, hardsigmoid, gelu };

// What happens to a sum before it is stored: dst = activation(sum + bias + residual).
struct Epilogue {
  const float* bias = nullptr;      // one per output channel, or null
  const float* residual = nullptr;  // same rows and columns as dst, or null
  int64_t residual_stride = 0;      // floats between the residual's rows
  Activation activation = Activation::none;
  float slope = 0;  // leaky_relu's
};

// dst[i, j] = epilogue(sum over tap, k of rows[tap][i][row_offset + k] * weight[tap, k, j]).
// The left matrix is never copied: `rows[tap * rows_stride + i]` points at its row. Columns are packed in panels of
// `nr` (the last one as wide as whole vectors allow): [panel][tap][k][column in panel], see pack_panels in ops/.
struct GemmArgs {
  const float* const* rows;
  int64_t rows_stride;  // pointers between taps
  int64_t row_offset;   // floats added to every row pointer: where this group's channels start
  int64_t m, n;         // rows and columns of dst
  int64_t taps, depth;  // depth: channels per tap
  const float* weight;
  const float* weight_end;  // of all packed weights, those of other calls included: what follows is fetched up to here
  float* dst;
  int64_t dst_stride;  // floats between dst's rows
  bool accumulate;     // sums go on from what dst holds, instead of from the bias
  Epilogue epilogue;
};

// Depthwise convolution of a band of output rows: dst[y, p, c] = epilogue(sum over r, s of
// rows[y * stride_h + r * dilation_h][column * src_stride + c] * weight[r, s, c]), column = p * stride_w +
// s * dilation_w - left. Rows of padding point at zeros; columns outside [0, width) count as zero. dst must not be the
// residual.
struct DepthwiseArgs {
  const float* const* rows;  // one pointer per input row under the band
  int64_t src_stride;        // floats between pixels of an input row
  int64_t width, left;       // columns of an input row, columns of padding before them
  int64_t out_rows, out_width, channels;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  const float* weight;    // [kernel_h][kernel_w][channels]
  int64_t weight_stride;  // floats between two taps
  float* dst;             // rows of out_width pixels
  int64_t dst_stride;     // floats between pixels
  // Where the channels' sums over each row of dst go, added from left to right, or null: [out_rows][channels], the rows
  // sums_stride apart.
  float* sums;
  int64_t sums_stride;
  Epilogue epilogue;
};

// dst[r, c] = activation((src[r, c] - center[c]) * scale[c] + shift[c] + residual[r, c])
struct NormalizeArgs {
  int64_t channels;
  const float *center, *scale, *shift;
  Activation activation = Activation::none;
  float slope = 0;                  // leaky_relu's
  const float* residual = nullptr;  // rows like src's, or null
};

// The gradient of batch normalisation: of `channels` channels of rows that lie `row_stride` floats apart.
struct NormGradientArgs {
  int64_t rows, channels, row_stride;
  const float* src;
  const float* gradient;                // of the output
  const float *center, *scale, *shift;  // as in NormalizeArgs
  Activation activation;
  float slope;
  // What the activation is differentiated at: null, the normalised values; else the output or, when that does not tell,
  // the residual that was added to them.
  const float* kept;
  bool kept_is_output;
  float* masked;  // the gradient in front of the activation, or null
  // First pass: added to.
  float* sums;      // of the gradient in front of the activation
  float* products;  // of the same times (src - center)
  // Second pass: dst = scale * (gradient in front of the activation - offset - (src - center) * factor), where factor
  // is null without the two last terms.
  const float *offset, *factor;
  float* dst;
};

// Layer normalisation of rows: dst[r, c] = (src[r, c] - mean of r) / sqrt(variance of r + eps) * weight[c] + bias[c].
struct LayerNormArgs {
  int64_t rows, channels;
  const float* src;
  const float *weight, *bias;
  float eps;
  float* dst;
  // Of the gradient only, and then without bias: that of the output; dst is the gradient of src, or null. The two
  // others, or null, are added to: the sums over the rows of the gradient times the normalised values, and of the
  // gradient.
  const float* gradient;
  float *products, *sums;
};

// Local response normalisation of pixels: dst = src / (k + alpha * sum of squares over the window)^beta.
struct LocalResponseArgs {
  int64_t channels;
  int64_t before, after;  // channels of the window on either side of the one it belongs to
  float alpha, beta, k;
  float* scratch;  // before + channels + after + lanes floats; for the gradient twice with both paddings doubled
};

enum class Pooling : int { max, average, power };

// A run of output pixels of one row of a pooling: each folds `rows` x `taps` input pixels, all inside the image
// (windows that leave it come with the taps that are inside).
struct PoolArgs {
  Pooling kind;
  const float* src;                        // first tap of the first pixel
  int64_t row_step, tap_step, pixel_step;  // floats between rows of taps, taps of a row, windows
  int64_t rows, taps;                      // of one window
  int64_t pixels, channels;
  float* dst;
  int64_t dst_step;  // floats between dst's pixels
  float divisor;     // average: of the sum
  float exponent;    // power: (scale * sum of |x|^exponent)^(1/exponent)
  float scale;
  // max: where the maximum stands in the input's plane, or null. The index of the first tap of the first pixel, and
  // what a step adds to it.
  int64_t* indices;
  int64_t index, index_row, index_tap, index_pixel;
  std::int32_t* places;  // the same in 32 bits, for planes that allow it; at most one of the two is not null
};

// One row of a pooling's input: each pixel gathers what the windows that it is in pass to it.
struct PoolGradientArgs {
  const float* gradient;           // of the image's output
  const std::int32_t* places;      // of the image's maxima; null for averages
  const float* factors;            // of averages: one per output pixel of the plane
  int64_t y_begin, y_end;          // output rows whose windows may reach this row
  const int64_t *x_begin, *x_end;  // for every pixel, the same of columns
  int64_t width, out_width, channels;
  std::int32_t place;  // of the first pixel
  float* dst;
};

// One tile of what Winograd's F(m x m, 3 x 3) takes: dst[xi][c], xi < (m + 2)^2.
struct WinogradInputArgs {
  int m;                       // 2 or 4
  const float* const* pixels;  // row by row; zeros outside the image
  int64_t channels;
  float* dst;
  int64_t dst_stride;  // floats between two xi
  int64_t next;        // floats from dst to that of the next tile, which is fetched meanwhile; 0: none
};

// One tile of its output: up to m x m pixels from src[xi][c].
struct WinogradOutputArgs {
  int m;
  const float* src;  // readable in whole vectors
  int64_t src_stride;
  int64_t channels;
  float* dst;
  int64_t dst_stride;     // floats between pixels
  int64_t width;          // pixels between rows
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
  float *first, *second;  // null where a rule does without: they count as zero and are not kept
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

// What a band of output rows adds to the gradient of depthwise filters: dst[r, s, c] = sum over y, x of
// gradient[y, x, c] * rows[y * stride_h + r * dilation_h][column * channels + c], column as in DepthwiseArgs.
struct DepthwiseGradientArgs {
  const float* const* rows;
  int64_t width, left;
  int64_t out_rows, out_width, channels;
  int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  const float* gradient;  // rows of out_width pixels
  float* dst;             // [kernel_h][kernel_w][channels]
};

// One input row of the gradient of depthwise convolution's input, for square filters of 3 or 5 taps with stride 2:
// dst[x, c] = sum over i < count, and over j, s with 2 j + s = x + left, of rows[i][j, c] * weights[i][s, c].
struct DepthwiseInputGradientArgs {
  const float* rows[3];     // rows of the output's gradient that the input row meets
  const float* weights[3];  // the taps by which they do, [kernel][channels]
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
  clamp,   // between `first` and `second`
  affine,  // x * first + second, rounded twice
};
enum class Binary : int { add, sub, mul, div, pow, maximum, minimum };
enum class Comparison : int { eq, ne, lt, le, gt, ge };

// A matrix of numbers: that in row r and column c is data[r * row + c * step].
struct Operand {
  const float* data;
  int64_t row, step;
};

// Functions of single numbers and of pairs of them, for matrices of results whose rows lie side by side or `dst_row`
// apart. dst may be an operand of the same strides.
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

enum class Reduction : int { sum, squares, product, maximum, minimum };  // squares: of distances from a number

struct KernelTable {
  Isa isa;
  int lanes;                    // floats per vector
  int mr, nr;                   // rows and columns of the register tile
  int64_t long_sum, sum_block;  // sums of more products than the first are sums of blocks of the second

  void (*gemm)(const GemmArgs&);
  void (*depthwise)(const DepthwiseArgs&);
  void (*outer)(const OuterArgs&);
  // Windows side by side: dst[p, r, j] = src[p * pixel_step + r * row_step + j] for p < pixels, r < rows, j < length
  void (*copy_windows)(const float* src, int64_t row_step, int64_t pixel_step, int64_t pixels, int64_t rows,
                       int64_t length, float* dst);
  void (*depthwise_gradient)(const DepthwiseGradientArgs&);
  void (*depthwise_input_gradient)(const DepthwiseInputGradientArgs&);
  // dst[c] = sum over rows of src[row * stride + c]
  void (*sum_columns)(const float* src, int64_t stride, int64_t rows, int64_t columns, float* dst);
  void (*pool)(const PoolArgs&);
  void (*pool_gradient)(const PoolGradientArgs&);
  // Transforms 3x3 filters, side by side in 9 rows of `width` (whole vectors): dst[xi * dst_stride + column].
  void (*winograd_filters)(int m, const float* src, int64_t width, float* dst, int64_t dst_stride);
  void (*winograd_input)(const WinogradInputArgs&);
  void (*winograd_output)(const WinogradOutputArgs&);
  // The adjoint of winograd_output for m = 4, on 4 x 4 pixels.
  void (*winograd_output_gradient)(const WinogradInputArgs&);
  // The adjoint of winograd_filters for m = 4: `columns` filters side by side, dst[tap * dst_stride + column].
  void (*winograd_filters_gradient)(const float* src, int64_t src_stride, int64_t columns, float* dst,
                                    int64_t dst_stride);
  // dst[i] = sum over k of weights[k] * rows[k][i]; dst may be one of the rows
  void (*blend_rows)(const float* const* rows, const float* weights, int64_t count, int64_t length, float* dst);
  // dst[p, c] = sum over k < taps of weights[p, k] * row[index[p, k], c]
  void (*blend_pixels)(const float* row, const int64_t* index, const float* weights, int64_t taps, int64_t pixels,
                       int64_t channels, float* dst);
  // dst[j * dst_stride + i] = src[i * src_stride + j] for i < rows, j < columns
  void (*transpose)(const float* src, int64_t src_stride, float* dst, int64_t dst_stride, int64_t rows,
                    int64_t columns);
  // dst[r, 2 * c] = a[r, c] and dst[r, 2 * c + 1] = b[r, c]; dst is dense, the rows of the others lie `stride` apart.
  void (*interleave)(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* dst, int64_t rows,
                     int64_t columns);
  void (*activate)(const float* src, float* dst, int64_t count, Activation activation, float slope);
  // dst = gradient in front of the activation; `at` is its input or, with from_output, its output.
  void (*activation_gradient)(const float* at, const float* gradient, float* dst, int64_t count, Activation activation,
                              float slope, bool from_output);
  void (*add)(const float* a, const float* b, float* dst, int64_t count, Activation activation, float slope);
  void (*unary)(const UnaryArgs&);
  void (*binary)(const BinaryArgs&);
  void (*compare)(const ComparisonArgs&);
  void (*where)(const WhereArgs&);
  void (*multiply)(const float* a, const float* b, float* dst, int64_t count);
  // dst[r, c] = src[r, c] * scale[c]
  void (*scale)(const float* src, const float* scale, float* dst, int64_t rows, int64_t channels);
  // dst[r, c] = src[r, c] * scale[r]
  void (*scale_rows)(const float* src, const float* scale, float* dst, int64_t rows, int64_t columns);
  // sums[c] += sum over r of a[r * stride + c] * b[r * stride + c]
  void (*dot_channels)(const float* a, const float* b, int64_t rows, int64_t stride, int64_t channels, float* sums);
  // Of every row; with `log`, its logarithm.
  void (*softmax)(const float* src, float* dst, int64_t rows, int64_t channels, bool log);
  // From the output and the gradient of the output.
  void (*softmax_gradient)(const float* output, const float* gradient, float* dst, int64_t rows, int64_t channels,
                           bool log);
  // Joins the numbers of a row to what `lanes` numbers hold, one of the latter per float of a vector.
  void (*reduce_row)(Reduction op, const float* src, int64_t count, float shift, double* lanes);
  // The same of columns side by side, whose numbers lie in up to 8 * lanes rows: sums[lane * columns + column]. One
  // shift per column.
  void (*reduce_columns)(Reduction op, const float* const* rows, int64_t count, int64_t columns, const float* shift,
                         double* sums);
  // The place of the first NaN, else of the first of the largest or smallest numbers, of a row and of columns.
  int64_t (*arg_row)(bool largest, const float* src, int64_t count);
  void (*arg_columns)(bool largest, const float* src, int64_t stride, int64_t count, int64_t columns, int64_t* dst);
  // Of columns side by side whose `count` numbers lie `stride` apart, as softmax and softmax_gradient of rows.
  void (*softmax_columns)(const float* src, float* dst, int64_t count, int64_t stride, int64_t columns, bool log);
  void (*softmax_columns_gradient)(const float* output, const float* gradient, float* dst, int64_t count,
                                   int64_t stride, int64_t columns, bool log);
  // Of every channel over at least one row: the mean, and the sum of squared deviations from it.
  void (*moments)(const float* src, int64_t rows, int64_t channels, double* mean, double* squares);
  void (*normalize)(const float* src, float* dst, int64_t rows, const NormalizeArgs&);
  void (*norm_gradient_sums)(const NormGradientArgs&);
  void (*norm_gradient)(const NormGradientArgs&);
  void (*layer_norm)(const LayerNormArgs&);
  void (*layer_norm_gradient)(const LayerNormArgs&);
  void (*local_response)(const float* src, float* dst, int64_t rows, const LocalResponseArgs&);
  void (*local_response_gradient)(const float* src, const float* gradient, float* dst, int64_t rows,
                                  const LocalResponseArgs&);
  void (*update)(Rule rule, const UpdateArgs&);
  double (*sum_of_squares)(const float* src, int64_t count);
  // Independent multiply-adds in registers; returns how many floating-point operations were done.
  double (*fma_peak)(int64_t iterations);
  // Loads every float once; returns their sum, so that the loads cannot be left out.
  float (*read_all)(const float* src, int64_t count);
};

void fill_generic(KernelTable&);
void fill_avx2(KernelTable&);
void fill_avx512(KernelTable&);

bool is_compiled(Isa isa);

// The table that new work uses: the best that was compiled and that the CPU supports, until set_active_isa.
const KernelTable& active_table();

// The table of `isa`, or null when it was not compiled or the CPU lacks it.
const KernelTable* table_for(Isa isa);

// By name; std::invalid_argument names what is available when `name` is not.
void set_active_isa(const char* name);

}  // namespace convlane
