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
#include "native/metric_families.h"
#include "native/model_options.h"
#include "native/request_parameters.h"
#include "native/tensors.h"

namespace enginery::triton {
namespace {

using Lines = std::vector<std::string>;

void AddTensors(Lines& lines) {
  for (const TensorSpec& spec : Inputs()) {
    lines.push_back(StrCat("input ", spec.name, " ", DataTypeName(spec.type), " ", spec.dims, " ",
                           spec.option.empty() ? "-" : spec.option));
  }
  for (const TensorSpec& spec : Outputs()) {
    lines.push_back(StrCat("output ", spec.name, " ", DataTypeName(spec.type), " ", spec.dims,
                           spec.is_optional ? " optional" : " required"));
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

std::string_view OrDash(std::string_view text) { return text.empty() ? "-" : text; }

void AddFamilies(Lines& lines, std::string_view kind, std::span<const Family> families) {
  for (const Family& family : families) {
    lines.push_back(StrCat(kind, "s ", family.name, " ", OrDash(family.label), " ", family.help));
    for (const FamilyValue& value : family.values) {
      lines.push_back(StrCat(kind, " ", family.name, " ", OrDash(value.label_value)));
    }
  }
}

void AddMetrics(Lines& lines) {
  AddFamilies(lines, "gauge", Gauges());
  AddFamilies(lines, "counter", Counters());
  for (const HistogramFamily& family : Histograms()) {
    lines.push_back(StrCat("histogram ", family.name, " ", OrDash(family.label), " ",
                           OrDash(family.label_value), " ", family.help));
    lines.push_back(StrCat("buckets ", family.name, " ", family.buckets));
  }
  lines.push_back(StrCat("timestamp ", kTimestampName, " ", kTimestampHelp));
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
