// All kernels, and the table of them. Each file in isa/ includes this once.
#pragma once

#include "kernels/activation.inl"
#include "kernels/by_doubles.inl"
#include "kernels/columns.inl"
#include "kernels/cross_entropy.inl"
#include "kernels/depthwise.inl"
#include "kernels/elementwise.inl"
#include "kernels/exp_log.inl"
#include "kernels/few_channels.inl"
#include "kernels/filter.inl"
#include "kernels/gemm.inl"
#include "kernels/layer_norm.inl"
#include "kernels/layout.inl"
#include "kernels/norm.inl"
#include "kernels/norm_gradient.inl"
#include "kernels/optimizer.inl"
#include "kernels/peak.inl"
#include "kernels/pointwise.inl"
#include "kernels/pool.inl"
#include "kernels/reduce.inl"
#include "kernels/resize.inl"
#include "kernels/softmax.inl"
#include "kernels/stem.inl"
#include "kernels/table.h"
#include "kernels/vec.h"
#include "kernels/weight_gradient.inl"
#include "kernels/winograd.inl"

namespace convlane {
namespace {

constexpr KernelTable kBase = {
    kIsa,
    kLanes,
    {gemm, kGemmRows, kGemmColumns, kLanes, 1, kLongSum, kSumBlock},
#define CONVLANE_KERNEL(result, name, parameters) name,
#include "kernels/list.def"
};
static_assert(is_complete(kBase));

}  // namespace
}  // namespace convlane
