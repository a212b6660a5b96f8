// Kernel tables and overlays, checked by static assertions when this is compiled (.ci/check-build); nothing runs.
#include "kernels/overlay.h"

namespace convlane {

// Kernels of any signature; only their addresses are used.
template <class Result, class... Args>
Result first(Args...);
template <class Result, class... Args>
Result second(Args...);

namespace {

constexpr KernelTable kWhole = {
    Isa::avx2,
    8,
    {first, 6, 16, 8, 1, 4608, 1024},
#define CONVLANE_KERNEL(result, name, parameters) first,
#include "kernels/list.def"
};
static_assert(is_complete(kWhole));

#define CONVLANE_KERNEL(result, name, parameters) \
  constexpr bool complete_without_##name() {      \
    KernelTable table = kWhole;                   \
    table.name = nullptr;                         \
    return is_complete(table);                    \
  }                                               \
  static_assert(!complete_without_##name());
#include "kernels/list.def"

constexpr bool complete_with(const GemmKernel<GemmArgs>& gemm) {
  KernelTable table = kWhole;
  table.gemm = gemm;
  return is_complete(table);
}
static_assert(complete_with({first, 14, kMostPanelColumns, 16, 1, 4608, 1024}));
static_assert(!complete_with({nullptr, 6, 16, 8, 1, 4608, 1024}));
static_assert(!complete_with({first, 14, kMostPanelColumns + 1, 16, 1, 4608, 1024}));
static_assert(!complete_with({first, 6, 16, 8, 4, 4608, 1024}));

constexpr bool has() { return true; }
constexpr bool lacks() { return false; }
constexpr void replace_add(KernelTable& table) { table.add = second; }
constexpr void restore_add(KernelTable& table) { table.add = first; }
constexpr void replace_gemm(KernelTable& table) { table.gemm = {second, 12, 32, 8, 1, 4608, 1024}; }

template <class... Overlays>
constexpr KernelTable under(Overlays... overlays) {
  const Overlay all[] = {overlays...};
  KernelTable table = kWhole;
  apply_overlays(all, table);
  return table;
}
constexpr auto kFirstAdd = kWhole.add;

constexpr Overlay kAdd{Isa::avx2, has, replace_add}, kAddBack{Isa::avx2, has, restore_add};
static_assert(under(kAdd).add != kFirstAdd);
static_assert(under(kAdd).multiply == kWhole.multiply);
static_assert(under(kAdd, kAddBack).add == kFirstAdd);
static_assert(under(kAddBack, kAdd).add != kFirstAdd);
static_assert(under(Overlay{Isa::avx2, lacks, replace_add}).add == kFirstAdd);
static_assert(under(Overlay{Isa::avx512, has, replace_add}).add == kFirstAdd);

constexpr KernelTable kWithGemm = under(Overlay{Isa::avx2, has, replace_gemm}, kAdd);
static_assert(kWithGemm.gemm.run != kWhole.gemm.run && kWithGemm.gemm.mr == 12 && is_complete(kWithGemm));
static_assert(kWithGemm.gemm.panel_width(8) == 8 && kWithGemm.gemm.panel_width(9) == 32);

}  // namespace
}  // namespace convlane
