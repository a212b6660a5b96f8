// Batch, layer and local response normalisation of channels-last images: rows are pixels.
#pragma once

#include "kernels/table.h"
#include "ops/view.h"

namespace convlane {

// What follows a normalisation in the same pass: activation(value + residual).
struct NormTail {
  Activation activation = Activation::none;
  float slope = 0;                  // leaky_relu's
  const float* residual = nullptr;  // rows like those of the output, or null
};

// dst[r, c] = (src[r, c] - mean[c]) / sqrt(variance[c] + eps) * weight[c] + bias[c], the factors worked out in double,
// and the tail. `weight` and `bias` may be null (1 and 0), dst may be src. Real: float or double.
template <class Real>
void run_batch_norm(const float* src, int64_t rows, int64_t channels, const Real* mean, const Real* variance,
                    const float* weight, const float* bias, double eps, float* dst, const NormTail& tail = {});

// The gradients of run_batch_norm's arguments from `gradient`, that of dst.
struct BatchNormGradient {
  const float* src;
  const float* gradient;
  int64_t rows, channels;
  const double *mean, *variance;
  const float *weight, *bias;  // or null
  double eps;
  bool training;  // mean and variance are src's own, and have a share in its gradient
  Activation activation = Activation::none;
  float slope = 0;
  // Where a residual was added and an activation followed: the output or, for those activations whose gradient it does
  // not tell, the residual.
  const float* kept = nullptr;
  bool kept_is_output = false;
  // Where to write, or null. The residual's is that in front of the activation.
  float* src_gradient = nullptr;
  float* weight_gradient = nullptr;
  float* bias_gradient = nullptr;
  float* residual_gradient = nullptr;
};
// The same bits for any number of threads.
void run_batch_norm_gradient(const BatchNormGradient&);

// Mean and biased variance of every channel over at least one row. The same bits for any number of threads.
void run_moments(const float* src, int64_t rows, int64_t channels, double* mean, double* variance);

// Every row of dst: (row of src - its mean) / sqrt(its variance + eps) * weight + bias; weight and bias may be null,
// dst may be src.
void run_layer_norm(const float* src, int64_t rows, int64_t channels, const float* weight, const float* bias, float eps,
                    float* dst);

// From run_layer_norm's input and the gradient of its output, those of src, weight and bias, each where it is not null;
// of the last two either both or none. The same bits for any number of threads.
void run_layer_norm_gradient(const float* src, const float* gradient, int64_t rows, int64_t channels,
                             const float* weight, float eps, float* src_gradient, float* weight_gradient,
                             float* bias_gradient);

// dst = src / (k + alpha / size * sum of squares over `size` channels around)^beta; dst may be src.
// std::invalid_argument unless size is positive.
void run_local_response(const float* src, int64_t rows, int64_t channels, int64_t size, float alpha, float beta,
                        float k, float* dst);

// From run_local_response's input and the gradient of its output.
void run_local_response_gradient(const float* src, const float* gradient, int64_t rows, int64_t channels, int64_t size,
                                 float alpha, float beta, float k, float* dst);

}  // namespace convlane
