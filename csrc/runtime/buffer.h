// Memory that kernels may load from with aligned vectors, and the size arithmetic that precedes every allocation.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>

#ifdef __linux__
#include <sys/mman.h>
#endif

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

struct FreeAligned {
  void operator()(void* memory) const { std::free(memory); }
};

template <class T>
using AlignedArray = std::unique_ptr<T[], FreeAligned>;

// Asks for 2 MiB pages under large buffers, as NumPy does: faulting in 4 KiB pages one by one takes longer than
// writing them (3.5 against 22 GB/s for a copy; 2026-11-20, Zen 5). Advice only, so failure is of no matter.
inline void advise_huge_pages(void* memory, std::size_t bytes) {
#ifdef __linux__
  constexpr std::size_t kLarge = 1 << 22, kPage = 4096;
  if (bytes < kLarge) return;
  const std::size_t offset = (kPage - reinterpret_cast<std::uintptr_t>(memory) % kPage) % kPage;
  madvise(static_cast<char*>(memory) + offset, bytes - offset, MADV_HUGEPAGE);
#else
  static_cast<void>(memory), static_cast<void>(bytes);
#endif
}

// Uninitialised memory for `count` trivial elements; throws std::bad_alloc (Python's MemoryError).
template <class T>
AlignedArray<T> allocate_aligned(std::int64_t count) {
  const std::int64_t bytes = checked_mul(count > 0 ? count : 1, static_cast<std::int64_t>(sizeof(T)));
  const std::size_t rounded = static_cast<std::size_t>(checked_add(bytes, kAlignment) / kAlignment * kAlignment);
  void* memory = std::aligned_alloc(kAlignment, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  advise_huge_pages(memory, rounded);
  return AlignedArray<T>(static_cast<T*>(memory));
}

}  // namespace convlane
