// SPDX-License-Identifier: Apache-2.0
//
// The native backend's tables are those of the Python backend: both are compared with one golden
// file, here and in tests/triton_backend/test_native_contract.py, which says how to write it anew.
#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "base/str_cat.h"
#include "check.h"
#include "native/model_options.h"
#include "native/request_parameters.h"
#include "native/stat_table.h"
#include "native/tensors.h"

namespace enginery::triton {
namespace {

using Lines = std::vector<std::string>;

void AddTensors(Lines& lines) {
  for (const TensorSpec& spec : Inputs()) {
    lines.push_back(StrCat("input ", spec.name, " ", DataTypeName(spec.type), " ",
                           spec.is_list ? -1 : 1, " ", spec.option.empty() ? "-" : spec.option));
  }
  for (const TensorSpec& spec : Outputs()) {
    lines.push_back(StrCat("output ", spec.name, " ", DataTypeName(spec.type), " ",
                           spec.is_list ? -1 : 1, spec.is_optional ? " optional" : " required"));
  }
}

void AddOptions(Lines& lines) {
  for (const UnsupportedOption& option : UnsupportedOptions()) {
    lines.push_back(StrCat("unsupported ", option.name, " ",
                           option.neutral.empty() ? "-" : option.neutral, " ", option.reason));
  }
  const auto add_sorted = [&lines](std::string_view kind, std::span<const std::string_view> names) {
    Lines sorted;
    for (const std::string_view name : names) sorted.push_back(StrCat(kind, " ", name));
    std::ranges::sort(sorted);
    lines.insert(lines.end(), sorted.begin(), sorted.end());
  };
  add_sorted("parameter", ModelParameterNames());
  add_sorted("python_parameter", PythonParameterNames());
}

void AddMetrics(Lines& lines) {
  for (const StatGaugeFamily& family : StatGaugeFamilies()) {
    lines.push_back(StrCat("family ", family.name, " ", family.label, " ", family.help));
    for (const StatGauge& gauge : family.gauges) {
      lines.push_back(StrCat("gauge ", family.name, " ", gauge.label_value));
    }
  }
  for (const StatCounter& counter : StatCounters()) {
    lines.push_back(StrCat("counter ", counter.name, " ", counter.help));
  }
  lines.push_back(StrCat("timestamp ", kTimestampName));
}

TEST(tables_are_those_of_the_golden_file) {
  Lines lines;
  AddTensors(lines);
  AddOptions(lines);
  AddMetrics(lines);
  std::ifstream golden("tests/triton_backend/golden/native_contract.txt");
  REQUIRE(golden.good());
  Lines expected;
  for (std::string line; std::getline(golden, line);) expected.push_back(line);
  for (size_t i = 0; i < std::min(lines.size(), expected.size()); ++i) {
    CHECK_EQ(lines[i], expected[i]);
  }
  CHECK_EQ(lines.size(), expected.size());
}

}  // namespace
}  // namespace enginery::triton
