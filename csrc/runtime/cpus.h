// How many CPUs this process can use at once: those its affinity allows, only the fast cores where there are two kinds,
// and no more than the CPU time its control groups grant.
#pragma once

#include <string>
#include <vector>

namespace convlane {

// The CPUs that affinity allows; empty where the system does not say.
std::vector<int> allowed_cpus();

// The usable number of `allowed`, at least 1, as the files under `root` describe the machine and this process; tests
// pass a directory of their own.
int usable_cpus(const std::vector<int>& allowed, const std::string& root = "/");

}  // namespace convlane
