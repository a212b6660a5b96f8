// Checks that the matrix kernel prefetches only weights and the memory to which it stores; prints one word, or the
// sizes for which it went beyond. Nothing is timed: every address that would be prefetched is checked instead.
#include <cstdint>
#include <cstdio>
#include <vector>

namespace {

struct Fetched {
  std::uintptr_t first, last;
  long count;
};
Fetched for_reading, for_writing;

void look_at(const void* p, int writes = 0, int = 0) {
  Fetched& fetched = writes != 0 ? for_writing : for_reading;
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  if (fetched.count++ == 0) fetched.first = fetched.last = address;
  if (address < fetched.first) fetched.first = address;
  if (address > fetched.last) fetched.last = address;
}

bool is_within(const Fetched& fetched, const std::vector<float>& memory) {
  return fetched.first >= reinterpret_cast<std::uintptr_t>(memory.data()) &&
         fetched.last < reinterpret_cast<std::uintptr_t>(memory.data() + memory.size());
}

}  // namespace

#define __builtin_prefetch(...) look_at(__VA_ARGS__)
#pragma GCC diagnostic ignored "-Wunused-function"
#include "kernels/gemm.inl"

namespace convlane {
namespace {

// A product over the columns of packed weights from `column` on, as computed by threads that divide the columns.
// The stride of the result's rows is `apart` times their length.
bool stays_within(int64_t m, int64_t n, int64_t taps, int64_t depth, int64_t column, int64_t apart) {
  const int64_t steps = taps * depth, columns = (n + kLanes - 1) / kLanes * kLanes;
  const std::vector<float> weight(static_cast<std::size_t>(steps * columns), 1.0f);
  const std::vector<float> src(static_cast<std::size_t>(m * depth), 1.0f);
  std::vector<float> dst(static_cast<std::size_t>((m - 1) * n * apart + n));
  std::vector<const float*> rows;
  for (int64_t tap = 0; tap < taps; ++tap)
    for (int64_t i = 0; i < m; ++i) rows.push_back(src.data() + i * depth);
  GemmArgs g{};
  g.rows = rows.data();
  g.rows_stride = m;
  g.m = m;
  g.n = n - column;
  g.taps = taps;
  g.depth = depth;
  g.weight = weight.data() + column * steps;
  g.weight_end = weight.data() + weight.size();
  g.dst = dst.data() + column;
  g.dst_stride = n * apart;
  for_reading = for_writing = {};
  gemm(g);
  const bool weights = for_reading.count > 0 && is_within(for_reading, weight);
  const bool fetched = for_writing.count > 0;  // where rows are dense it costs more than it gains
  const bool result = fetched ? is_within(for_writing, dst) : apart == 1;
  if (!weights || !result)
    std::printf("m=%ld n=%ld taps=%ld depth=%ld column=%ld: beyond the %s\n", static_cast<long>(m),
                static_cast<long>(n), static_cast<long>(taps), static_cast<long>(depth), static_cast<long>(column),
                weights ? "result" : "weights");
  return weights && result;
}

}  // namespace
}  // namespace convlane

int main() {
  using namespace convlane;
  bool all = true;
  for (const int64_t m : {1, 5, 6, 7, 13, 14, 29, 200})
    for (const int64_t n :
         {1, kLanes, kLanes + 1, kGemmColumns, kGemmColumns + 1, 3 * kGemmColumns - 1, 4 * kGemmColumns})
      for (const int64_t taps : {1, 9})
        for (const int64_t depth : {1, 3, 64, 600})
          for (const int64_t column : {0, kGemmColumns})
            for (const int64_t apart : {1, 2})
              if (column < n) all &= stays_within(m, n, taps, depth, column, apart);
  if (all) std::puts("within");
  return all ? 0 : 1;
}
