// Group normalisation: each group of channels of an image by its own mean and variance. With groups of one channel it
// is instance normalisation.
#pragma once

#include "runtime/buffer.h"

namespace convlane {

using std::int64_t;

struct GroupNormShape {
  int64_t images, channels, groups, pixels;
  bool channels_last;  // else the pixels of each channel are adjacent

  int64_t count() const { return images * channels * pixels; }
};

// std::invalid_argument unless `groups` divides the channels.
GroupNormShape describe_group_norm(int64_t images, int64_t channels, int64_t groups, int64_t pixels,
                                   bool channels_last);

// dst = (src - mean) / sqrt(variance + eps) * weight + bias, where `weight` and `bias` are per channel and may be null
// (1 and 0). dst may be src. The means and biased variances of every image's groups are stored in `mean` and
// `variance`. The same bits for any number of threads and for any batch.
void run_group_norm(const GroupNormShape& shape, const float* src, const float* weight, const float* bias, double eps,
                    double* mean, double* variance, float* dst, int threads, Scratch& scratch);

// Takes the scratch of run_group_norm.
void reserve_group_norm(const GroupNormShape& shape, Scratch& scratch);

// The gradients of run_group_norm's arguments from `gradient`, which is dst's.
struct GroupNormGradient {
  GroupNormShape shape;
  const float *src, *gradient;
  const double *mean, *variance;
  const float* weight;  // or null
  double eps;
  // Where to write, or null.
  float* src_gradient = nullptr;
  float* weight_gradient = nullptr;
  float* bias_gradient = nullptr;
};
// The same bits for any number of threads.
void run_group_norm_gradient(const GroupNormGradient&);

}  // namespace convlane
