// The memory of runs: each run takes a block and gives it back, so there are as many blocks as there ever were runs at
// the same time. The plans of one network for several sizes share it.
#pragma once

#include <mutex>
#include <vector>

#include "runtime/buffer.h"

namespace convlane {

using std::int64_t;

class PlanMemory {
 public:
  struct Piece {
    AlignedArray<char> data;
    int64_t bytes = 0;
  };

  // Returns at least that many bytes.
  Piece take(int64_t bytes);
  void give_back(Piece piece);

  // Frees blocks larger than `most` as they are returned.
  void limit(int64_t most);
  // The memory held for future runs.
  int64_t bytes() const;

 private:
  mutable std::mutex mutex_;
  std::vector<Piece> spare_;
  int64_t most_ = 0;
};

}  // namespace convlane
