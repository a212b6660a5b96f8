// Numbers picked by their places along one dimension, and sums of what goes back there.
#pragma once

#include "ops/reduce.h"

namespace convlane {

// Arrays in C order as in `Along`; places are within [0, count), which check_places holds them to.
// std::invalid_argument names the first that is not.
void check_places(const int64_t* places, int64_t count, int64_t size, const char* op);

// dst (outer, chosen, inner): of each of the `item` bytes of src (outer, count, inner) that stands at a place.
void run_take(const void* src, const Along& along, int64_t item, const int64_t* places, int64_t chosen, void* dst);

// dst (outer, count, inner): the sum of what was taken from each place, in the order of the places.
void run_take_gradient(const float* gradient, const Along& along, const int64_t* places, int64_t chosen, float* dst);

// The same with a place for every number of the result: places (outer, chosen, inner).
void run_take_along(const void* src, const Along& along, int64_t item, const int64_t* places, int64_t chosen,
                    void* dst);
void run_take_along_gradient(const float* gradient, const Along& along, const int64_t* places, int64_t chosen,
                             float* dst);

// dst (outer, count, inner): zeros, and each number of values (outer, chosen, inner) at its place, the last one where
// several have the same.
void run_put_along(const float* values, const Along& along, const int64_t* places, int64_t chosen, float* dst);

}  // namespace convlane
