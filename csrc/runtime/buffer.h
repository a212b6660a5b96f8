// Memory that kernels may load from with aligned vectors, and the size arithmetic that precedes every allocation.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>

namespace convlane {

constexpr std::int64_t kAlignment = 64;  // one cache line, one AVX-512 register

// Products and sums of sizes that come from outside; std::invalid_argument becomes Python's ValueError.
inline std::int64_t checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) throw std::invalid_argument("sizes too large: their product overflows");
  return product;
}

inline std::int64_t checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) throw std::invalid_argument("sizes too large: their sum overflows");
  return sum;
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

// At least `bytes` of uninitialised memory, aligned; throws std::bad_alloc. Large blocks that were freed not long ago
// are used again, because faulting in fresh pages takes longer than most operations that write them.
void* allocate_block(std::int64_t bytes);
void free_block(void* memory);

// While one exists, freed blocks are kept up to the most that were in use at once since then: for work that allocates
// the same again and again, as training does.
class MemoryHold {
 public:
  MemoryHold();
  ~MemoryHold();
  MemoryHold(const MemoryHold&) = delete;
  MemoryHold& operator=(const MemoryHold&) = delete;
};

struct FreeAligned {
  void operator()(void* memory) const { free_block(memory); }
};

template <class T>
using AlignedArray = std::unique_ptr<T[], FreeAligned>;

// Uninitialised memory for `count` trivial elements; throws std::bad_alloc (Python's MemoryError).
template <class T>
AlignedArray<T> allocate_aligned(std::int64_t count) {
  return AlignedArray<T>(static_cast<T*>(allocate_block(checked_mul(count, static_cast<std::int64_t>(sizeof(T))))));
}

}  // namespace convlane
