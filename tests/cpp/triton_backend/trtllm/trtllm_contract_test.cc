// SPDX-License-Identifier: Apache-2.0
//
// The native backend's tables of `tensorrt_llm` are those of the Python backend: both are compared
// with one golden file, here and in tests/triton_backend/trtllm/test_native_contract.py, which says
// how to write it anew.
#include <string>
#include <vector>

#include "base/str_cat.h"
#include "check.h"
#include "native/layout.h"
#include "native/trtllm/tensors.h"
#include "support/golden_lines.h"

namespace enginery::triton {
namespace {

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
  CheckGoldenLines(lines, "tests/triton_backend/trtllm/golden/native_contract.txt");
}

}  // namespace
}  // namespace enginery::triton
