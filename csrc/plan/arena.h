// The offsets of a network's results in one block of memory: no two that are alive at the same time overlap.
#pragma once

#include <cstdint>
#include <vector>

namespace convlane {

// A result's size and lifetime, from its first step to its last, both included.
struct Life {
  std::int64_t first, last, size;
};

// The lowest offset at which each fits, one after the other in the order given ("greedy by size" of Pisarchyk and Lee,
// "Efficient memory management for deep neural net inference", 2020, where the largest come first).
std::vector<std::int64_t> assign_offsets(const std::vector<Life>& lives);

}  // namespace convlane
