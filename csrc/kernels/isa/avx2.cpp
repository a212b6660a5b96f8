// 256-bit vectors: compiled with -mavx2 -mfma.
#define CONVLANE_VEC_AVX2
#include "kernels/kernels.inl"

namespace convlane {

void fill_avx2(KernelTable& table) { table = kBase; }

}  // namespace convlane
