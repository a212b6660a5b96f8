#include "plan/arena.h"

#include <algorithm>
#include <stdexcept>

namespace convlane {
namespace {

using std::int64_t;

// The results that already have an offset. Those that may be alive at the same time as another are found by lifetime:
// level l has lifetimes of at most 2^l steps, in buckets by first step, so whatever is alive at some step began in its
// bucket or in the one before.
class Allocations {
 public:
  explicit Allocations(int64_t steps) {
    for (int64_t length = 1;; length *= 2) {
      levels_.push_back({{}, std::vector<std::vector<int>>(static_cast<std::size_t>(steps / length + 1))});
      if (length >= steps) break;
    }
  }

  int64_t lowest(const Life& life) {
    const auto meets = [&](int id) { return lives_[id].first <= life.last && life.first <= lives_[id].last; };
    // Where there are many, those not alive at the same time are skipped; where there are few, they are sorted.
    const std::size_t few = lives_.size() / 8;
    found_.clear();
    for (std::size_t l = 0; l < levels_.size() && found_.size() <= few; ++l) {
      const auto collect = [&](const std::vector<int>& ids) {
        std::copy_if(ids.begin(), ids.end(), std::back_inserter(found_), meets);
      };
      const int64_t begin = std::max<int64_t>((life.first >> l) - 1, 0), end = (life.last >> l) + 1;
      if (end - begin > static_cast<int64_t>(levels_[l].all.size()))
        collect(levels_[l].all);
      else
        for (int64_t b = begin; b < end; ++b) collect(levels_[l].buckets[static_cast<std::size_t>(b)]);
    }
    if (found_.size() > few) {
      found_.clear();
      std::copy_if(in_order_.begin(), in_order_.end(), std::back_inserter(found_), meets);
    } else {
      std::sort(found_.begin(), found_.end(), [this](int a, int b) { return offsets_[a] < offsets_[b]; });
    }
    int64_t free = 0;
    for (const int id : found_) {
      if (free + life.size <= offsets_[id]) break;
      free = std::max(free, offsets_[id] + lives_[id].size);
    }
    return free;
  }

  void add(const Life& life, int64_t offset) {
    const int id = static_cast<int>(lives_.size());
    lives_.push_back(life);
    offsets_.push_back(offset);
    in_order_.insert(std::upper_bound(in_order_.begin(), in_order_.end(), offset,
                                      [this](int64_t value, int other) { return value < offsets_[other]; }),
                     id);
    std::size_t l = 0;
    while (int64_t{1} << l < life.last - life.first + 1) ++l;
    levels_[l].all.push_back(id);
    levels_[l].buckets[static_cast<std::size_t>(life.first >> l)].push_back(id);
  }

  const std::vector<int64_t>& offsets() const { return offsets_; }

 private:
  struct Level {
    std::vector<int> all;
    std::vector<std::vector<int>> buckets;
  };

  std::vector<Life> lives_;
  std::vector<int64_t> offsets_;
  std::vector<int> in_order_;  // ids, by increasing offset
  std::vector<Level> levels_;
  std::vector<int> found_;
};

}  // namespace

std::vector<int64_t> assign_offsets(const std::vector<Life>& lives) {
  int64_t steps = 1;
  for (const Life& life : lives) {
    if (life.first < 0 || life.last < life.first || life.size < 0)
      throw std::invalid_argument("plan: a result must live for at least one step and must not have a negative size");
    steps = std::max(steps, life.last + 1);
  }
  if (steps > INT32_MAX || lives.size() > INT32_MAX) throw std::invalid_argument("plan: there are too many steps");
  Allocations allocations(steps);
  for (const Life& life : lives) allocations.add(life, allocations.lowest(life));
  return allocations.offsets();
}

}  // namespace convlane
