// Batch normalisation and local response normalisation of channels-last images: rows are pixels.
#pragma once

#include "ops/view.h"

namespace convlane {

// The affine map that normalising with these statistics is, worked out in double: y = x * scale[c] + shift[c].
// `weight` and `bias` may be null (1 and 0). Real: float or double.
template <class Real>
void fold_batch_norm(const Real* mean, const Real* variance, const float* weight, const float* bias, double eps,
                     int64_t channels, float* scale, float* shift);

// dst[r, c] = src[r, c] * scale[c] + shift[c]; dst may be src.
void run_scale_shift(const float* src, int64_t rows, int64_t channels, const float* scale, const float* shift,
                     float* dst);

// Mean and biased variance of every channel over at least one row. The same bits for any number of threads.
void run_moments(const float* src, int64_t rows, int64_t channels, double* mean, double* variance);

// dst = src / (k + alpha / size * sum of squares over `size` channels around)^beta; dst may be src.
// std::invalid_argument unless size is positive.
void run_local_response(const float* src, int64_t rows, int64_t channels, int64_t size, float alpha, float beta,
                        float k, float* dst);

}  // namespace convlane
