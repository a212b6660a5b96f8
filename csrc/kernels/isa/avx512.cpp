// 512-bit vectors: compiled with AVX-512 F, BW, DQ and VL.
#define CONVLANE_VEC_AVX512
#include "kernels/kernels.inl"

namespace convlane {

void fill_avx512(KernelTable& table) { table = kBase; }

}  // namespace convlane
