// Kernels run without the interpreter's lock (GIL).
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

namespace convlane {

// Releases the GIL for its lifetime, as pybind11::gil_scoped_release does, but lets a daemon thread outlive the
// interpreter: before 3.14, a Python that is shutting down ends threads that request the GIL by pthread_exit(), whose
// unwinding would end the process at this destructor, or later release the caller's arrays without the GIL. The thread
// sleeps instead until the process ends, as from 3.14 on (https://github.com/python/cpython/issues/87135).
class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()) {}
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;
  ~GilRelease() { take_back(); }

  // Runs the handlers of pending signals, such as Ctrl-C, if this is the main thread. Returns whether one has raised:
  // the exception is then Python's current one.
  bool interrupted() {
    take_back();
    const bool raised = PyErr_CheckSignals() != 0;
    state_ = PyEval_SaveThread();
    return raised;
  }

 private:
  void take_back() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {  // pthread_exit() unwinds by an exception that must not be swallowed
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }

  PyThreadState* state_;
};

}  // namespace convlane
