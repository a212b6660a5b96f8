// Detection of cache sizes.
#include "runtime/machine.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "runtime/system_files.h"

#ifdef __linux__
#include <unistd.h>
#endif

namespace convlane {
namespace {

constexpr Caches kUsual{32 << 10, 512 << 10, 4 << 20};  // where the system does not say

// No CPU has more last-level cache per core than this, but a virtual machine reports all of its host's, which it shares
// with others: 300 MB for 2 cores (Xeon of the fifth generation, 2026-11-26).
constexpr std::int64_t kMostThirdOfCore = 16 << 20;

// "48K", as Linux writes it; 0 for anything else.
std::int64_t bytes_of(const std::string& text) {
  std::size_t digits = 0;
  while (digits < text.size() && digits < 9 && text[digits] >= '0' && text[digits] <= '9') ++digits;
  if (digits == 0) return 0;
  const std::int64_t count = std::stoll(text.substr(0, digits));
  const std::string unit = text.substr(digits);
  return unit == "K" ? count << 10 : unit == "M" ? count << 20 : unit.empty() ? count : 0;
}

// The number of CPUs in a list; at least 1.
std::int64_t cpus_of(const std::string& list) {
  return std::max<std::int64_t>(static_cast<std::int64_t>(numbers_of_list(list).size()), 1);
}

// The caches of the first CPU as Linux describes them; zeros where it does not.
Caches from_sysfs() {
  const std::string cpu = "/sys/devices/system/cpu/cpu0/";
  const std::int64_t siblings = cpus_of(line_of(cpu + "topology/thread_siblings_list"));
  Caches found{};
  for (int i = 0; i < 10; ++i) {
    const std::string cache = cpu + "cache/index" + std::to_string(i) + "/";
    const std::string level = line_of(cache + "level"), type = line_of(cache + "type");
    if (level.empty()) break;
    if (type == "Instruction") continue;
    const std::int64_t size = bytes_of(line_of(cache + "size"));
    const std::int64_t cores = std::max<std::int64_t>(cpus_of(line_of(cache + "shared_cpu_list")) / siblings, 1);
    if (level == "1") found.first = size / cores;
    if (level == "2") found.second = size / cores;
    if (level == "3") found.third = std::min(size, cores * kMostThirdOfCore);
  }
  return found;
}

// The caches as the C library reports them, without saying how many CPUs share one.
Caches from_library() {
  Caches found{};
#ifdef _SC_LEVEL1_DCACHE_SIZE
  found.first = sysconf(_SC_LEVEL1_DCACHE_SIZE);
  found.second = sysconf(_SC_LEVEL2_CACHE_SIZE);
  found.third = std::min<std::int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE), kMostThirdOfCore);
#endif
  return found;
}

Caches find() {
  Caches found = from_sysfs();
  if (found.first <= 0 || found.second <= 0) found = from_library();
  if (found.first <= 0 || found.second < found.first) return kUsual;
  found.third = std::max(found.third, found.second);
  return found;
}

Caches sizes = find();

}  // namespace

const Caches& caches() { return sizes; }

void set_caches(const Caches& given) {
  constexpr std::int64_t kLeast = 1 << 10;
  if (given.first < kLeast || given.second < given.first || given.third < given.second)
    throw std::invalid_argument("each cache must have at least 1 KB and no less than the one before, got " +
                                std::to_string(given.first) + ", " + std::to_string(given.second) + " and " +
                                std::to_string(given.third) + " bytes");
  sizes = given;
}

}  // namespace convlane
