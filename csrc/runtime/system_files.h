// The files in which Linux describes the machine: one line, or a list of CPUs.
#pragma once

#include <string>
#include <vector>

namespace convlane {

// The first line; nothing where the file does not exist.
std::string line_of(const std::string& path);

// The numbers of a list like "0-3,8", in order; nothing if it is malformed.
std::vector<int> numbers_of_list(const std::string& list);

}  // namespace convlane
