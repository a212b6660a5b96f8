// Optimiser steps: threads share blocks of the parameters' buffer.
#include "ops/optimizer.h"

#include "ops/parallel.h"
#include "runtime/buffer.h"

namespace convlane {
namespace {

constexpr int64_t kBlock = 1 << 16;  // floats of one unit of work

struct Block {
  const Segment* segment;
  int64_t begin, count;
};

std::vector<Block> blocks_of(const std::vector<Segment>& segments) {
  std::vector<Block> blocks;
  for (const Segment& segment : segments)
    for (int64_t begin = 0; begin < segment.count; begin += kBlock)
      blocks.push_back({&segment, begin, std::min(kBlock, segment.count - begin)});
  return blocks;
}

int threads_for_blocks(const std::vector<Block>& blocks) {
  int64_t floats = 0;
  for (const Block& block : blocks) floats += block.count;
  return threads_for(floats);
}

}  // namespace

void run_update(Rule rule, const UpdateArgs& common, const std::vector<Segment>& segments) {
  const std::vector<Block> blocks = blocks_of(segments);
  const auto update = active_table().update;
  parallel_for(static_cast<int64_t>(blocks.size()), threads_for_blocks(blocks),
               [&](int64_t begin, int64_t end, int) noexcept {
                 for (int64_t b = begin; b < end; ++b) {
                   const Segment& segment = *blocks[b].segment;
                   const int64_t at = segment.offset + blocks[b].begin;
                   UpdateArgs args = common;
                   args.src += at;
                   args.dst += at;
                   if (args.first) args.first += at;
                   if (args.second) args.second += at;
                   args.gradient = segment.gradient + blocks[b].begin;
                   args.count = blocks[b].count;
                   args.lr = segment.lr;
                   args.weight_decay = segment.weight_decay;
                   args.shrink = segment.shrink;
                   update(rule, args);
                 }
               });
}

double run_sum_of_squares(const std::vector<Segment>& segments) {
  const std::vector<Block> blocks = blocks_of(segments);
  std::vector<double> sums(blocks.size());
  const auto sum_of_squares = active_table().sum_of_squares;
  parallel_for(static_cast<int64_t>(blocks.size()), threads_for_blocks(blocks),
               [&](int64_t begin, int64_t end, int) noexcept {
                 for (int64_t b = begin; b < end; ++b)
                   sums[b] = sum_of_squares(blocks[b].segment->gradient + blocks[b].begin, blocks[b].count);
               });
  double sum = 0;
  for (double part : sums) sum += part;
  return sum;
}

}  // namespace convlane
