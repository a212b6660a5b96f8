// Detection of instruction sets.
#include "runtime/cpu.h"

namespace convlane {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::generic:
      break;
  }
  return "generic";
}

// The builtin reads CPUID and XGETBV, so an operating system that does not save the wide registers counts as a "no".
bool cpu_supports(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
    case Isa::generic:
      break;
  }
#endif
  return isa == Isa::generic;
}

}  // namespace convlane
