// Batch, layer and local response normalisation of channels-last images: rows are pixels.
#pragma once

#include "kernels/table.h"
#include "ops/view.h"

namespace convlane {

// Applied after a normalisation in the same pass: activation(value + residual).
struct NormTail {
  Activation activation = Activation::none;
  float slope = 0;                  // as in Epilogue
  const float* residual = nullptr;  // rows like those of the output, or null
};

// dst[r, c] = (src[r, c] - mean[c]) / sqrt(variance[c] + eps) * weight[c] + bias[c], followed by the tail; the factors
// are computed in double at construction.
class BatchNorm {
 public:
  // `weight` and `bias` may be null (1 and 0). Real: float or double.
  template <class Real>
  BatchNorm(int64_t channels, const Real* mean, const Real* variance, const float* weight, const float* bias,
            double eps);

  // dst may be src.
  void run(const float* src, int64_t rows, float* dst, const NormTail& tail = {}) const;

 private:
  int64_t channels_;
  AlignedArray<float> factors_;
  const float *center_, *scale_, *shift_;  // as in NormalizeArgs
};

// The gradients of run_batch_norm's arguments from `gradient`, that of dst.
struct BatchNormGradient {
  const float* src;
  const float* gradient;
  int64_t rows, channels;
  const double *mean, *variance;
  const float *weight, *bias;  // or null
  double eps;
  bool training;  // mean and variance are src's own, and contribute to its gradient
  Activation activation = Activation::none;
  float slope = 0;
  // If a residual was added and an activation followed: the output or, for activations whose gradient does not follow
  // from it, the residual.
  const float* kept = nullptr;
  bool kept_is_output = false;
  // Where to write, or null. The residual's gradient is that of the activation's input.
  float* src_gradient = nullptr;
  float* weight_gradient = nullptr;
  float* bias_gradient = nullptr;
  float* residual_gradient = nullptr;
};
// The same bits for any number of threads.
void run_batch_norm_gradient(const BatchNormGradient&);

// Mean and biased variance of every channel over at least one row. The same bits for any number of threads.
void run_moments(const float* src, int64_t rows, int64_t channels, double* mean, double* variance);

// Each row of dst: (row of src - its mean) / sqrt(its variance + eps) * weight + bias. If not centered, 0 and the mean
// square replace mean and variance.
class LayerNorm {
 public:
  // `weight` and `bias` may be null (1 and 0).
  LayerNorm(int64_t channels, bool centered, const float* weight, const float* bias, float eps);

  // dst may be src.
  void run(const float* src, int64_t rows, float* dst) const;

 private:
  int64_t channels_;
  bool centered_;
  float eps_;
  AlignedArray<float> weight_, bias_;
};

// From LayerNorm's input and its output's gradient, those of src, weight and bias, each where it is not null; weight's
// and bias's only both or neither. The same bits for any number of threads.
void run_layer_norm_gradient(const float* src, const float* gradient, int64_t rows, int64_t channels, bool centered,
                             const float* weight, float eps, float* src_gradient, float* weight_gradient,
                             float* bias_gradient);

// dst = src / (k + alpha / size * sum of squares over a window of `size` channels)^beta; dst may be src.
void run_local_response(const LocalResponseArgs& args, const float* src, int64_t rows, float* dst, int threads,
                        Scratch& scratch);

// Takes the scratch of run_local_response for that many rows and threads.
void reserve_local_response(const LocalResponseArgs& args, int64_t rows, int threads, Scratch& scratch);

// std::invalid_argument unless size is positive.
LocalResponseArgs describe_local_response(int64_t channels, int64_t size, float alpha, float beta, float k);

// From run_local_response's input and its output's gradient.
void run_local_response_gradient(const float* src, const float* gradient, int64_t rows, int64_t channels, int64_t size,
                                 float alpha, float beta, float k, float* dst);

}  // namespace convlane
