// The memory of runs: each takes a piece and gives it back, so there is one for each run that was ever at work at the
// same time. The plans of one network for several sizes share it.
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

  // At least as many bytes.
  Piece take(int64_t bytes);
  void give_back(Piece piece);

  // Frees what is larger than `most`, as it comes back.
  void limit(int64_t most);
  // What it holds for runs to come.
  int64_t bytes() const;

 private:
  mutable std::mutex mutex_;
  std::vector<Piece> spare_;
  int64_t most_ = 0;
};

}  // namespace convlane
