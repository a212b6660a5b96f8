// A convolution followed by a pooling that is the only reader of its result. The image between them, the largest of
// many networks, stays in the cache where the convolution's algorithm supports that.
#pragma once

#include "ops/conv2d.h"
#include "ops/pool2d.h"

namespace convlane {

// How much of the convolution's result exists before it is pooled.
PooledFrom pooled_from(const Conv2dAlgorithm& algorithm, const Conv2dDesc& desc, const Pool2dDesc& pool);

// Whether an algorithm that can compute the convolution need not compute the image as a whole.
bool may_pool_in_cache(const Conv2dDesc& desc, const Pool2dDesc& pool);

// std::invalid_argument when the pooling does not fit the convolution's result.
void check_conv2d_pool(const Conv2dDesc& desc, const Pool2dDesc& pool);

// As run_conv2d, but dst is the pooled image, and there is no residual. The result is bit for bit that of convolution
// and pooling one after the other.
void run_conv2d_pool(const Conv2dAlgorithm& algorithm, const Conv2dDesc& desc, const Conv2dArgs& args,
                     const Pool2dDesc& pool, Scratch& scratch);

// As reserve_conv2d.
void reserve_conv2d_pool(const Conv2dAlgorithm& algorithm, const Conv2dDesc& desc, const Conv2dArgs& args,
                         const Pool2dDesc& pool, bool any_layout, Scratch& scratch);

}  // namespace convlane
