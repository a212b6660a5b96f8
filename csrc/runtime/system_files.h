// Files in which Linux describes the machine: a line, or a list of CPUs.
#pragma once

#include <string>
#include <vector>

namespace convlane {

// The first line; nothing where there is no such file.
std::string line_of(const std::string& path);

// The numbers of a list like "0-3,8", in its order; nothing for anything else.
std::vector<int> numbers_of_list(const std::string& list);

}  // namespace convlane
