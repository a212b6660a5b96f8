// The rounding mode and the treatment of denormals, which threads take over from the caller that they work for.
#pragma once

#if defined(__SSE__)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

namespace convlane {

// The state of the thread that constructs it. On x86 only the SSE control register (MXCSR), which takes 3 ns, whereas
// fegetenv() and fesetenv() take 140 (Xeon, Sapphire Rapids, 2026-11-26).
class FloatState {
 public:
#if defined(__SSE__)
  FloatState() : state_(_mm_getcsr()) {}
  void set() const { _mm_setcsr(state_); }

 private:
  unsigned state_;
#else
  FloatState() { std::fegetenv(&state_); }
  void set() const { std::fesetenv(&state_); }

 private:
  std::fenv_t state_;
#endif
};

// Switches the calling thread to another thread's state for the lifetime of this object.
class BorrowedFloatState {
 public:
  explicit BorrowedFloatState(const FloatState& other) { other.set(); }
  BorrowedFloatState(const BorrowedFloatState&) = delete;
  BorrowedFloatState& operator=(const BorrowedFloatState&) = delete;
  ~BorrowedFloatState() { own_.set(); }

 private:
  FloatState own_;
};

}  // namespace convlane
