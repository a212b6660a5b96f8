// Whether the matrix kernel fetches ahead only what is packed: prints one word, or which sizes went beyond. Nothing is
// timed: every address that would be fetched is looked at instead.
#include <cstdint>
#include <cstdio>
#include <vector>

namespace {

std::uintptr_t first_fetched, last_fetched;
long fetches;

void look_at(const void* p) {
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  if (fetches++ == 0) first_fetched = last_fetched = address;
  if (address < first_fetched) first_fetched = address;
  if (address > last_fetched) last_fetched = address;
}

}  // namespace

#define __builtin_prefetch(address, ...) look_at(address)
#pragma GCC diagnostic ignored "-Wunused-function"
#include "kernels/gemm.inl"

namespace convlane {
namespace {

// A product over the columns of packed weights from `column` on, as threads that share the columns out compute it.
bool stays_within(int64_t m, int64_t n, int64_t taps, int64_t depth, int64_t column) {
  const int64_t steps = taps * depth, columns = (n + kLanes - 1) / kLanes * kLanes;
  const std::vector<float> weight(static_cast<std::size_t>(steps * columns), 1.0f);
  const std::vector<float> src(static_cast<std::size_t>(m * depth), 1.0f);
  std::vector<float> dst(static_cast<std::size_t>(m * n));
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
  g.dst_stride = n;
  fetches = 0;
  gemm(g);
  const bool within = fetches > 0 && first_fetched >= reinterpret_cast<std::uintptr_t>(weight.data()) &&
                      last_fetched < reinterpret_cast<std::uintptr_t>(g.weight_end);
  if (!within)
    std::printf("m=%ld n=%ld taps=%ld depth=%ld column=%ld: %ld floats behind the end\n", static_cast<long>(m),
                static_cast<long>(n), static_cast<long>(taps), static_cast<long>(depth), static_cast<long>(column),
                static_cast<long>((last_fetched - reinterpret_cast<std::uintptr_t>(g.weight_end)) / sizeof(float)));
  return within;
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
            if (column < n) all &= stays_within(m, n, taps, depth, column);
  if (all) std::puts("within");
  return all ? 0 : 1;
}
