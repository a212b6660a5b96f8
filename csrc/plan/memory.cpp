// The pool of runs' memory.
#include "plan/memory.h"

#include <algorithm>

namespace convlane {

// Locks are tried, not waited for: a child of fork() may find one held by a thread that it does not have.

PlanMemory::Piece PlanMemory::take(int64_t bytes) {
  if (const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock); lock) {
    for (Piece& piece : spare_) {
      if (piece.bytes < bytes) continue;
      std::swap(piece, spare_.back());
      Piece taken = std::move(spare_.back());
      spare_.pop_back();
      return taken;
    }
    spare_.clear();  // too small, all of them
  }
  return {allocate_aligned<char>(bytes), bytes};
}

void PlanMemory::give_back(Piece piece) {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (lock && piece.bytes <= most_) spare_.push_back(std::move(piece));
}

void PlanMemory::limit(int64_t most) {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock) return;
  most_ = most;
  spare_.erase(std::remove_if(spare_.begin(), spare_.end(), [most](const Piece& piece) { return piece.bytes > most; }),
               spare_.end());
}

int64_t PlanMemory::bytes() const {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  int64_t sum = 0;
  for (std::size_t i = 0; lock && i < spare_.size(); ++i) sum += spare_[i].bytes;
  return sum;
}

}  // namespace convlane
