// Kernels for CPU features beyond an instruction set: they replace single entries of its table.
#pragma once

#include "kernels/table.h"

namespace convlane {

struct Overlay {
  Isa isa;                      // whose table it overlays
  bool (*is_supported)();       // by this CPU and its operating system
  void (*apply)(KernelTable&);  // sets the entries that it has kernels for
};

// In order: where two overlays set the same entry, the later one wins.
template <class Overlays>
constexpr void apply_overlays(const Overlays& overlays, KernelTable& table) {
  for (const Overlay& overlay : overlays)
    if (overlay.isa == table.isa && overlay.is_supported()) overlay.apply(table);
}

}  // namespace convlane
