// Batch normalisation and local response normalisation of channels-last images: rows are pixels.
#pragma once

#include "ops/view.h"

namespace convlane {

// dst[r, c] = (src[r, c] - mean[c]) / sqrt(variance[c] + eps) * weight[c] + bias[c], the factors worked out in double.
// `weight` and `bias` may be null (1 and 0), dst may be src. Real: float or double.
template <class Real>
void run_batch_norm(const float* src, int64_t rows, int64_t channels, const Real* mean, const Real* variance,
                    const float* weight, const float* bias, double eps, float* dst);

// Mean and biased variance of every channel over at least one row. The same bits for any number of threads.
void run_moments(const float* src, int64_t rows, int64_t channels, double* mean, double* variance);

// dst = src / (k + alpha / size * sum of squares over `size` channels around)^beta; dst may be src.
// std::invalid_argument unless size is positive.
void run_local_response(const float* src, int64_t rows, int64_t channels, int64_t size, float alpha, float beta,
                        float k, float* dst);

}  // namespace convlane
