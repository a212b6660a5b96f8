// How many threads an operation may use. Starting them is the business of runtime/team.h.
//
// Fork: a child has only the thread that called fork(). It must not wait for what another one was about to do, so locks
// are tried and never waited for, and what is made once is made when the module is loaded: a static object in a
// function is guarded by a lock while it is made.
#pragma once

namespace convlane {

// The count for a call made now by this thread: the innermost num_threads() context, else set_num_threads(),
// else set_default_threads(), else what affinity, the container's CPU quota and OpenMP allow. Always 1 in a child
// of fork(): the OpenMP runtime's workers do not survive it, and waiting for them would hang.
int num_threads();

void set_num_threads(int count);      // 0 goes back to the default; process-wide
void set_default_threads(int count);  // 0: none; process-wide

// The override of the calling thread, 0 for none; returns the one before.
int exchange_thread_override(int count);

// Whether a parallel region of `count` threads can start. OpenMP ends the process where the system refuses it a thread,
// so before a region of more threads than this thread's last one as many are started and ended on trial. What that
// tells holds for a second; threads and memory that others take within it, or stacks made larger by OMP_STACKSIZE, are
// not seen. False inside another library's parallel region, whose threads have the CPUs, and in a child of fork(). Only
// where there is OpenMP.
bool can_have_team(int count);

// Whether this process is such a child.
bool in_forked_child();

// CPUs that this process can use at once, see runtime/cpus.h.
int available_cpus();
int usual_cpus();  // as found at the first call

}  // namespace convlane
