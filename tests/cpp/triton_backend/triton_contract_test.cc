// SPDX-License-Identifier: Apache-2.0
//
// The native backend's tables are those of the Python backend: both are compared with one golden
// file, here and in tests/triton_backend/test_native_contract.py, which says how to write it anew.
#include <algorithm>
#include <string>
#include <vector>

#include "base/str_cat.h"
#include "check.h"
#include "native/metric_families.h"
#include "native/model_options.h"
#include "native/request_parameters.h"
#include "native/tensors.h"
#include "support/golden_lines.h"

namespace enginery::triton {
namespace {

void AddTensors(Lines& lines) {
  for (const TensorSpec& spec : Inputs()) {
    lines.push_back(StrCat("input ", spec.name, " ", DataTypeName(spec.type), " ", spec.dims, " ",
                           OrDash(spec.option)));
  }
  for (const TensorSpec& spec : Outputs()) {
    lines.push_back(StrCat("output ", spec.name, " ", DataTypeName(spec.type), " ", spec.dims,
                           spec.is_optional ? " optional" : " required"));
  }
}

void AddOptions(Lines& lines) {
  for (const UnsupportedOption& option : UnsupportedOptions()) {
    lines.push_back(
        StrCat("unsupported ", option.name, " ", OrDash(option.neutral), " ", option.reason));
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
  CheckGoldenLines(lines, "tests/triton_backend/golden/native_contract.txt");
}

}  // namespace
}  // namespace enginery::triton
