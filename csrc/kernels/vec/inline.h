// How functions of vectors and loops over registers are compiled: whole, in place.
#pragma once

#if defined(__clang__)
#define CONVLANE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define CONVLANE_UNROLL _Pragma("GCC unroll 32")
#endif
#define CONVLANE_INLINE inline __attribute__((always_inline))
