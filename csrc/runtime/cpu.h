// Which instruction sets this CPU and its operating system can run.
#pragma once

namespace convlane {

enum class Isa { generic, avx2, avx512 };

constexpr Isa kAllIsas[] = {Isa::generic, Isa::avx2, Isa::avx512};  // slowest first

const char* isa_name(Isa isa);

// True when the CPU has every extension that the kernels of `isa` are compiled for and the OS saves its registers.
bool cpu_supports(Isa isa);

}  // namespace convlane
