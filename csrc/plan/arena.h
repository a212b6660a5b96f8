// Where the results of a network lie in one piece of memory: no two that are there at once overlap.
#pragma once

#include <cstdint>
#include <vector>

namespace convlane {

// A result that is there from its first step to its last, both included, and its size.
struct Life {
  std::int64_t first, last, size;
};

// The lowest offset where each fits, one after the other in the order given ("greedy by size" of Pisarchyk and Lee,
// "Efficient memory management for deep neural net inference", 2020, where the largest come first).
std::vector<std::int64_t> place_results(const std::vector<Life>& lives);

}  // namespace convlane
