// Counting usable CPUs on Linux: affinity, core types, control groups.
#include "runtime/cpus.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <thread>

#include "runtime/system_files.h"

#ifdef __linux__
#include <sched.h>
#endif

namespace convlane {
namespace {

// Cores below this fraction of the best one's capacity count as slow. An estimate: efficiency cores have 0.3 to 0.6 of
// it, and the middle cores of a phone with three kinds about 0.8.
constexpr double kQuick = 0.75;

// The number of fast CPUs: by their capacity, which Linux reports on ARM and lately on x86, or from its list of Intel's
// performance cores.
int quick_cpus(const std::vector<int>& allowed, const std::string& root) {
  std::vector<double> capacities;
  for (const int cpu : allowed) {
    const std::string path = root + "sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cpu_capacity";
    capacities.push_back(std::atof(line_of(path).c_str()));
  }
  const double best = capacities.empty() ? 0 : *std::max_element(capacities.begin(), capacities.end());
  const auto count = static_cast<int>(allowed.size());
  const auto quick = static_cast<int>(
      std::count_if(capacities.begin(), capacities.end(), [&](double each) { return each >= kQuick * best; }));
  if (best > 0 && quick < count) return quick;
  const std::vector<int> performance = numbers_of_list(line_of(root + "sys/devices/cpu_core/cpus"));
  const auto found = static_cast<int>(std::count_if(allowed.begin(), allowed.end(), [&](int cpu) {
    return std::binary_search(performance.begin(), performance.end(), cpu);
  }));
  return found > 0 ? found : count;
}

// The CPU quota in one control group's files, in CPUs; infinity without a limit. Version 2 has both numbers in one
// file, version 1 a file for each.
double quota_of(const std::string& group) {
  std::string quota;
  double period = 0;
  std::ifstream v2(group + "/cpu.max");
  if (!(v2 >> quota >> period)) {
    std::ifstream(group + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(group + "/cpu.cfs_period_us") >> period;
  }
  const double limit = std::atof(quota.c_str());  // "max" reads as 0, and -1 means none
  return limit > 0 && period > 0 ? limit / period : std::numeric_limits<double>::infinity();
}

// The smallest quota of this process's groups and of all their parents.
double smallest_quota(const std::string& root) {
  const std::string mounted = root + "sys/fs/cgroup";
  double smallest = std::min(quota_of(mounted), quota_of(mounted + "/cpu"));
  std::ifstream groups(root + "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "0::/user.slice/one" or "4:cpu,cpuacct:/user.slice/one"
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool unified = controllers == ",,";
    if (!unified && controllers.find(",cpu,") == std::string::npos) continue;
    std::string path = line.substr(second + 1);
    for (; path.size() > 1; path.erase(path.rfind('/')))
      smallest = std::min(smallest, quota_of(mounted + (unified ? "" : "/cpu") + path));
  }
  return smallest;
}

}  // namespace

std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
#endif
  return cpus;
}

int usable_cpus(const std::vector<int>& allowed, const std::string& root) {
  const int cpus = allowed.empty() ? static_cast<int>(std::thread::hardware_concurrency()) : quick_cpus(allowed, root);
  // Rounded up: a fraction of a CPU is worth a thread; it waits now and then, but takes work off the others.
  return static_cast<int>(std::clamp<double>(std::ceil(smallest_quota(root)), 1, std::max(cpus, 1)));
}

}  // namespace convlane
