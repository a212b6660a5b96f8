// Memory aligned for vector loads, and the checked size arithmetic that precedes every allocation.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>

namespace convlane {

constexpr std::int64_t kAlignment = 64;  // one cache line, one AVX-512 register

// An array would have more elements or bytes than 64 bits can count. Python's `SizeOverflow`, a ValueError.
struct SizeOverflow : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Products and sums of sizes that come from outside.
inline std::int64_t checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) throw SizeOverflow("sizes too large: their product overflows");
  return product;
}

inline std::int64_t checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) throw SizeOverflow("sizes too large: their sum overflows");
  return sum;
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

// At least `bytes` of uninitialised, aligned memory; throws a std::bad_alloc that says how many. Large blocks freed
// recently are reused, because faulting in fresh pages takes longer than most operations that write them.
void* allocate_block(std::int64_t bytes);
void free_block(void* memory);

// While one exists, freed blocks are kept, up to the peak use since then: for work that makes the same allocations
// again and again, as training does.
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

// Hands out consecutive parts of one block of memory, each aligned to a cache line. Without memory it only counts, so
// the code that takes an operation's scratch also says how much it needs.
class Scratch {
 public:
  explicit Scratch(void* memory = nullptr) : memory_(static_cast<char*>(memory)) {}

  // Uninitialised memory for `count` trivial elements; null while only counting.
  template <class T>
  T* take(std::int64_t count) {
    const std::int64_t begin = bytes_, size = checked_mul(count, static_cast<std::int64_t>(sizeof(T)));
    bytes_ = checked_add(begin, checked_add(size, kAlignment - 1) / kAlignment * kAlignment);
    return memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + begin);
  }
  std::int64_t bytes() const { return bytes_; }

 private:
  char* memory_;
  std::int64_t bytes_ = 0;
};

// Calls run(scratch) with as much memory as reserve(scratch) takes.
template <class Reserve, class Run>
void with_scratch(const Reserve& reserve, const Run& run) {
  Scratch counted;
  reserve(counted);
  const auto memory = allocate_aligned<char>(counted.bytes());
  Scratch scratch(memory.get());
  run(scratch);
}

}  // namespace convlane
