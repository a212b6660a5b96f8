// How many CPUs this process can use at once: what its affinity leaves to it, the quick cores alone where there are
// cores of two kinds, and no more than the CPU time that its control groups allow.
#pragma once

#include <string>
#include <vector>

namespace convlane {

// The CPUs that affinity allows; empty where the system does not tell.
std::vector<int> allowed_cpus();

// Of `allowed`, as the files under `root` describe the machine and this process, at least 1; tests give a folder of
// their own.
int usable_cpus(const std::vector<int>& allowed, const std::string& root = "/");

}  // namespace convlane
