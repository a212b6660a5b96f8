// All kernels, and the function that puts them into a table. Each file in isa/ includes this once.
#pragma once

#include "kernels/activation.inl"
#include "kernels/depthwise.inl"
#include "kernels/elementwise.inl"
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
#include "kernels/table.h"
#include "kernels/vec.h"
#include "kernels/weight_gradient.inl"
#include "kernels/winograd.inl"

namespace convlane {
namespace {

void fill(KernelTable& table) {
  table.lanes = kLanes;
  table.mr = kGemmRows;
  table.nr = kGemmColumns;
  table.long_sum = kLongSum;
  table.sum_block = kSumBlock;
  table.gemm = gemm;
  table.depthwise = depthwise;
  table.outer = outer;
  table.copy_windows = copy_windows;
  table.depthwise_gradient = depthwise_gradient;
  table.depthwise_input_gradient = depthwise_input_gradient;
  table.sum_columns = sum_columns;
  table.pool = pool;
  table.pool_gradient = pool_gradient;
  table.winograd_filters = winograd_filters;
  table.winograd_input = winograd_input;
  table.winograd_output = winograd_output;
  table.winograd_output_gradient = winograd_output_gradient;
  table.winograd_filters_gradient = winograd_filters_gradient;
  table.blend_rows = blend_rows;
  table.blend_pixels = blend_pixels;
  table.transpose = transpose;
  table.interleave = interleave;
  table.activate = activate;
  table.activation_gradient = activation_gradient;
  table.add = add_arrays;
  table.unary = unary;
  table.binary = binary;
  table.compare = compare;
  table.where = where;
  table.multiply = multiply_arrays;
  table.scale = scale_channels;
  table.dot_channels = dot_channels;
  table.scale_rows = scale_rows;
  table.softmax = softmax;
  table.softmax_gradient = softmax_gradient;
  table.reduce_row = reduce_row;
  table.reduce_columns = reduce_columns;
  table.arg_row = arg_row;
  table.arg_columns = arg_columns;
  table.softmax_columns = softmax_columns;
  table.softmax_columns_gradient = softmax_columns_gradient;
  table.moments = moments;
  table.normalize = normalize;
  table.norm_gradient_sums = norm_gradient_sums;
  table.norm_gradient = norm_gradient;
  table.layer_norm = layer_norm;
  table.layer_norm_gradient = layer_norm_gradient;
  table.local_response = local_response;
  table.local_response_gradient = local_response_gradient;
  table.update = update;
  table.sum_of_squares = sum_of_squares;
  table.fma_peak = fma_peak;
  table.read_all = read_all;
}

}  // namespace
}  // namespace convlane
