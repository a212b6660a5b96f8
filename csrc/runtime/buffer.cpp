// Aligned memory, and the freed blocks that are kept for reuse.
#include "runtime/buffer.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif
#if defined(__GLIBC__) || defined(_WIN32)
#include <malloc.h>
#endif

namespace convlane {
namespace {

// Windows has its own names for C++17's aligned_alloc.
void* new_memory(std::int64_t bytes) {
#ifdef _WIN32
  return _aligned_malloc(static_cast<std::size_t>(bytes), kAlignment);
#else
  return std::aligned_alloc(kAlignment, static_cast<std::size_t>(bytes));
#endif
}

void release(void* memory) {
#ifdef _WIN32
  _aligned_free(memory);
#else
  std::free(memory);
#endif
}

// A block's first cache line holds its size; the caller's memory starts after it.
struct alignas(kAlignment) Header {
  std::int64_t bytes;
};

// Freed blocks wait here for reuse, oldest first. Small ones are left to malloc, which keeps them anyway. The bound is
// the memory of two of VGG-16's largest images, small enough to keep for good.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kKeeps = false;  // so that sanitizers see every use after free
#else
constexpr bool kKeeps = true;
#endif
constexpr std::int64_t kKeptBytes = std::int64_t{32} << 20;
constexpr std::int64_t kSmallest = 128 * 1024;
constexpr std::size_t kKeptBlocks = 16;

struct Cache {
  std::mutex mutex;
  std::vector<Header*> blocks;
  std::int64_t bytes = 0;
  std::int64_t used = 0, most_used = 0;  // bytes of blocks handed out; their peak since the first hold
  std::atomic<int> holds{0};

  Header* remove(std::size_t i) {
    Header* block = blocks[i];
    blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(i));
    bytes -= block->bytes;
    return block;
  }

  void use(std::int64_t change) {
    used += change;
    most_used = std::max(most_used, used);
  }

  void trim() {
    const std::int64_t most = holds > 0 ? std::max(most_used - used, kKeptBytes) : kKeptBytes;
    while (!blocks.empty() && (bytes > most || (holds == 0 && blocks.size() > kKeptBlocks))) release(remove(0));
  }
};

// Never destroyed: arrays may outlive static objects. Made at load: see Fork in runtime/threads.h.
Cache& kept = *new Cache;

// The smallest kept block of at least `bytes` that is not much larger.
Header* take(std::int64_t bytes) {
  // try_lock, here and below: a child of fork() may find the lock held by a thread that does not exist there.
  const std::unique_lock<std::mutex> lock(kept.mutex, std::try_to_lock);
  if (!lock) return nullptr;
  const std::int64_t slack = kept.holds > 0 ? 16 : 4;  // repeated allocations find blocks of their own size
  std::size_t best = kept.blocks.size();
  for (std::size_t i = kept.blocks.size(); i-- > 0;) {
    const std::int64_t size = kept.blocks[i]->bytes;
    if (size >= bytes && size <= bytes + bytes / slack &&
        (best == kept.blocks.size() || size < kept.blocks[best]->bytes))
      best = i;
  }
  Header* block = best == kept.blocks.size() ? nullptr : kept.remove(best);
  kept.use(block == nullptr ? bytes : block->bytes);
  return block;
}

bool keep(Header* block) {
  if (!kKeeps || block->bytes < kSmallest) return false;
  const std::unique_lock<std::mutex> lock(kept.mutex, std::try_to_lock);
  if (!lock) return false;
  kept.use(-block->bytes);
  if (kept.holds == 0 && block->bytes > kKeptBytes) return false;
  kept.blocks.push_back(block);
  kept.bytes += block->bytes;
  kept.trim();
  return true;
}

// Python's MemoryError, with what() as its message.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::int64_t bytes) {
    std::snprintf(message_, sizeof message_, "cannot allocate %.3g GiB", static_cast<double>(bytes) / (1 << 30));
  }
  const char* what() const noexcept override { return message_; }

 private:
  char message_[48];  // a string could need memory itself
};

// Asks for 2 MiB pages under large buffers, as NumPy does: faulting in 4 KiB pages one by one takes longer than writing
// them (a copy reaches 3.5 instead of 22 GB/s; Zen 5, 2026-11-20). It is only advice, so failure is harmless.
void advise_huge_pages(void* memory, std::int64_t bytes) {
#ifdef __linux__
  constexpr std::int64_t kLarge = 1 << 22, kPage = 4096;
  if (bytes < kLarge) return;
  const auto offset = static_cast<std::int64_t>(-reinterpret_cast<std::uintptr_t>(memory) % kPage);
  madvise(static_cast<char*>(memory) + offset, static_cast<std::size_t>(bytes - offset), MADV_HUGEPAGE);
#else
  static_cast<void>(memory), static_cast<void>(bytes);
#endif
}

}  // namespace

MemoryHold::MemoryHold() {
  const std::unique_lock<std::mutex> lock(kept.mutex, std::try_to_lock);
  if (kept.holds++ == 0 && lock) kept.most_used = kept.used;
}

MemoryHold::~MemoryHold() {
  const std::unique_lock<std::mutex> lock(kept.mutex, std::try_to_lock);
  [[maybe_unused]] const bool last = --kept.holds == 0;
  if (!lock) return;
  kept.trim();
#ifdef __GLIBC__
  if (last) malloc_trim(0);  // malloc would otherwise keep whatever is not at the end of its heap
#endif
}

void* allocate_block(std::int64_t bytes) {
  bytes = checked_add(std::max(bytes, std::int64_t{1}), kAlignment - 1) / kAlignment * kAlignment;
  if (bytes >= kSmallest)
    if (Header* block = take(bytes)) return block + 1;
  const std::int64_t whole = checked_add(bytes, kAlignment);
  void* memory = new_memory(whole);
  if (memory == nullptr) throw OutOfMemory(whole);
  advise_huge_pages(memory, whole);
  return new (memory) Header{bytes} + 1;
}

void free_block(void* memory) {
  if (memory == nullptr) return;
  Header* block = static_cast<Header*>(memory) - 1;
  if (!keep(block)) release(block);
}

}  // namespace convlane
