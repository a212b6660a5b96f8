// Reading of Linux's description of the machine.
#include "runtime/system_files.h"

#include <cstdlib>
#include <fstream>

namespace convlane {

std::string line_of(const std::string& path) {
  std::string line;
  std::getline(std::ifstream(path) >> std::ws, line);
  return line;
}

std::vector<int> numbers_of_list(const std::string& list) {
  constexpr long kMost = 1 << 16;  // more CPUs than Linux supports
  std::vector<int> numbers;
  for (const char* at = list.c_str(); *at != '\0';) {
    char* end = nullptr;
    const long first = std::strtol(at, &end, 10);
    if (end == at) return {};
    long last = first;
    if (*end == '-') {
      at = end + 1;
      last = std::strtol(at, &end, 10);
      if (end == at) return {};
    }
    if (first < 0 || last < first || last > kMost || (*end != '\0' && *end != ',')) return {};
    for (long number = first; number <= last; ++number) numbers.push_back(static_cast<int>(number));
    at = *end == ',' ? end + 1 : end;
  }
  return numbers;
}

}  // namespace convlane
