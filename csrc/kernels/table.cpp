// The tables of the compiled instruction sets, and the choice of the active one.
#include "kernels/table.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels/overlay.h"

namespace convlane {
namespace {

using Fill = void (*)(KernelTable&);

Fill fill_function(Isa isa) {
  switch (isa) {
    case Isa::generic:
      return fill_generic;
#ifdef CONVLANE_HAVE_AVX2
    case Isa::avx2:
      return fill_avx2;
#endif
#ifdef CONVLANE_HAVE_AVX512
    case Isa::avx512:
      return fill_avx512;
#endif
    default:
      return nullptr;
  }
}

// Each overlay's kernels are a unit of isa/, compiled with the flags of the feature it needs.
constexpr std::array<Overlay, 0> kOverlays{};

template <Isa isa>
const KernelTable* usable_table() {
  static const KernelTable* const table = [] {
    static KernelTable filled{};
    if (!is_compiled(isa) || !cpu_supports(isa)) return static_cast<KernelTable*>(nullptr);
    fill_function(isa)(filled);
    apply_overlays(kOverlays, filled);
    if (!is_complete(filled)) std::abort();  // can only be an overlay's fault: each base is checked when it is compiled
    return &filled;
  }();
  return table;
}

const KernelTable* best_table() {
  const KernelTable* best = nullptr;
  for (Isa isa : kAllIsas)
    if (const KernelTable* table = table_for(isa)) best = table;
  return best;
}

std::atomic<const KernelTable*> active{best_table()};  // made at load: see Fork in runtime/threads.h

}  // namespace

bool is_compiled(Isa isa) { return fill_function(isa) != nullptr; }

const KernelTable* table_for(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return usable_table<Isa::avx2>();
    case Isa::avx512:
      return usable_table<Isa::avx512>();
    case Isa::generic:
      break;
  }
  return usable_table<Isa::generic>();
}

const KernelTable& active_table() { return *active.load(std::memory_order_acquire); }

void set_active_isa(const char* name) {
  std::string available;
  for (Isa isa : kAllIsas) {
    const KernelTable* table = table_for(isa);
    if (table == nullptr) continue;
    if (std::string(name) == isa_name(isa)) {
      active.store(table, std::memory_order_release);
      return;
    }
    available += (available.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  throw std::invalid_argument("instruction set '" + std::string(name) +
                              "' is not available; this build on this CPU has " + available);
}

}  // namespace convlane
