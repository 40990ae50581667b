// SPDX-License-Identifier: Apache-2.0
//
// The native backend's tables of `tensorrt_llm` are those of the Python backend: both are compared
// with one golden file, here and in tests/triton_backend/trtllm/test_native_contract.py, which says
// how to write it anew.
#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "base/str_cat.h"
#include "check.h"
#include "native/layout.h"
#include "native/trtllm/tensors.h"

namespace enginery::triton {
namespace {

using Lines = std::vector<std::string>;

std::string_view OrDash(std::string_view text) { return text.empty() ? "-" : text; }

TEST(tables_are_those_of_the_golden_file) {
  Lines lines;
  for (const TensorSpec& spec : trtllm::Inputs()) {
    lines.push_back(StrCat("input ", spec.name, " ", DataTypeName(spec.type), " [", spec.dims, "] ",
                           spec.is_optional ? "optional " : "required ", OrDash(spec.option)));
  }
  for (const UnsupportedOption& input : trtllm::RefusedInputs()) {
    lines.push_back(StrCat("refused ", input.name, " ", OrDash(input.neutral), " ", input.reason));
  }
  for (const TensorSpec& spec : trtllm::Outputs()) {
    lines.push_back(
        StrCat("output ", spec.name, " ", DataTypeName(spec.type), " [", spec.dims, "]"));
  }
  for (const trtllm::EnsembleInput& input : trtllm::EnsembleInputs()) {
    lines.push_back(StrCat("ensemble ", input.name, " ", input.target));
  }
  constexpr std::string_view kOwn[] = {"input_lengths"};
  for (const LayoutParameter& parameter : ChooseLayout(kOwn).parameters) {
    lines.push_back(StrCat("parameter ", parameter.name));
  }
  std::ifstream golden("tests/triton_backend/trtllm/golden/native_contract.txt");
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
