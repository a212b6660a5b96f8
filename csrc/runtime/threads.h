// How many threads an operation may use. runtime/team.h starts them.
//
// Fork: a child has only the thread that called fork(). It must not wait for locks that other threads held, so locks
// are tried, never waited for, and singletons are made when the module is loaded: a function-local static is
// initialised under a lock.
#pragma once

namespace convlane {

// The count for a call made now by this thread: the innermost num_threads() context, else set_num_threads(), else
// set_default_threads(), else what affinity, the container's CPU quota and OpenMP allow. Always 1 in a child of fork():
// the OpenMP runtime's workers do not survive it, and waiting for them would hang.
int num_threads();

void set_num_threads(int count);      // 0 goes back to the default; process-wide
void set_default_threads(int count);  // 0: none; process-wide

// Overrides the count for the calling thread, 0 for no override; returns the previous one.
int exchange_thread_override(int count);

// Whether a parallel region of `count` threads can start. OpenMP ends the process when the system refuses it a thread,
// so before a region with more threads than this thread's last one, that many are started and ended as a trial. The
// answer holds for a second; threads and memory that others take meanwhile, or stacks enlarged by OMP_STACKSIZE, go
// unnoticed. False inside another library's parallel region, whose threads have the CPUs, and in a child of fork().
// Only with OpenMP.
bool can_have_team(int count);

// Whether this process is such a child.
bool in_forked_child();

// The number of CPUs that this process can use at once, see runtime/cpus.h.
int available_cpus();
int usual_cpus();  // as found at the first call

}  // namespace convlane
