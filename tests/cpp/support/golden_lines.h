// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"

namespace enginery::triton {

using Lines = std::vector<std::string>;

// What a field of such a file is where it is empty.
inline std::string_view OrDash(std::string_view text) { return text.empty() ? "-" : text; }

// Of a file that the Python tests read too.
inline Lines GoldenLines(const char* path) {
  std::ifstream golden(path);
  REQUIRE(golden.good());
  Lines lines;
  for (std::string line; std::getline(golden, line);) lines.push_back(line);
  return lines;
}

inline void CheckGoldenLines(const Lines& lines, const char* path) {
  const Lines expected = GoldenLines(path);
  for (size_t i = 0; i < std::min(lines.size(), expected.size()); ++i) {
    CHECK_EQ(lines[i], expected[i]);
  }
  CHECK_EQ(lines.size(), expected.size());
}

}  // namespace enginery::triton
