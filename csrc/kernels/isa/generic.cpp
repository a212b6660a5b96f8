// What every CPU of the architecture runs: compiled without extra flags.
#define CONVLANE_VEC_GENERIC
#include "kernels/kernels.inl"

namespace convlane {

void fill_generic(KernelTable& table) { table = kBase; }

}  // namespace convlane
