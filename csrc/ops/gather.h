// Gathering by indices along one dimension, and scattering back.
#pragma once

#include "ops/reduce.h"

namespace convlane {

// Arrays in C order as in `Along`; `indices` are within [0, count), which check_indices ensures.
// std::invalid_argument names the first that is not.
void check_indices(const int64_t* indices, int64_t count, int64_t size, const char* op);

// dst (outer, chosen, inner): the elements of src (outer, count, inner), `item` bytes each, at the indices.
void run_take(const void* src, const Along& along, int64_t item, const int64_t* indices, int64_t chosen, void* dst);

// dst (outer, count, inner): for each index the sum of the gradients at it, in the order of `indices`.
void run_take_gradient(const float* gradient, const Along& along, const int64_t* indices, int64_t chosen, float* dst);

// The same with one index for each element of the result: indices (outer, chosen, inner).
void run_take_along(const void* src, const Along& along, int64_t item, const int64_t* indices, int64_t chosen,
                    void* dst);
void run_take_along_gradient(const float* gradient, const Along& along, const int64_t* indices, int64_t chosen,
                             float* dst);

// dst (outer, count, inner): zeros, with each of values (outer, chosen, inner) stored at its index; the last one wins
// where several share an index.
void run_put_along(const float* values, const Along& along, const int64_t* indices, int64_t chosen, float* dst);

}  // namespace convlane
