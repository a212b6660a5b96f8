// Forced inlining of vector functions, and full unrolling of loops over registers.
#pragma once

#if defined(__clang__)
#define CONVLANE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define CONVLANE_UNROLL _Pragma("GCC unroll 32")
#endif
#define CONVLANE_INLINE inline __attribute__((always_inline))
