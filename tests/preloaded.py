"""A preloaded library that replaces C++'s allocation functions: it counts allocations, and lets one fail."""

import os
import shutil
import subprocess
import sys

import pytest

needs_gcc = pytest.mark.skipif(
    shutil.which("g++") is None or not sys.platform.startswith("linux"), reason="needs g++ on Linux"
)

# Replaces the functions by which C++ and our aligned blocks allocate. Python and NumPy use other functions.
LIBRARY = r"""
#include <atomic>
#include <cstdlib>
#include <dlfcn.h>
#include <new>

static thread_local long left = -1;  // allocations until one fails; negative: none does
extern "C" void fail_after(long count) { left = count; }
extern "C" int has_failed() { return left == -2; }

static std::atomic<long> all{0};
extern "C" long allocations() { return all; }

static bool fails() {
  ++all;
  if (left < 0 || left-- > 0) return false;
  left = -2;
  return true;
}

void* operator new(std::size_t size) {
  void* memory = fails() ? nullptr : std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
extern "C" void* aligned_alloc(std::size_t alignment, std::size_t size) {
  static const auto real = reinterpret_cast<void* (*)(std::size_t, std::size_t)>(dlsym(RTLD_NEXT, "aligned_alloc"));
  return fails() ? nullptr : real(alignment, size);
}
"""


def run(program, folder, *arguments, **environment):
    """Run a Python program with the library, whose path is its first argument, preloaded; return its output."""
    source, library = folder / "allocations.cpp", folder / "allocations.so"
    source.write_text(LIBRARY)
    subprocess.run(["g++", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    command = [sys.executable, "-X", "faulthandler", "-c", program, str(library), *arguments]
    environment = {**os.environ, **environment, "LD_PRELOAD": str(library)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    return result.stdout
