// SPDX-License-Identifier: Apache-2.0
#include "input_rows.h"

#include <algorithm>

#include "base/str_cat.h"

namespace enginery::triton::trtllm {

InputRows::InputRows(std::span<const InputTensor> inputs) : inputs_(inputs) {
  const auto prompts = std::ranges::find(inputs, "input_ids", &InputTensor::name);
  if (prompts == inputs.end()) RefuseInput("input_ids", "is missing; it is the prompt");
  const int64_t num_rows = prompts->shape.empty() ? 0 : prompts->shape[0];
  if (num_rows < 1) RefuseInput("input_ids", "has no rows; give one at least");
  num_rows_ = static_cast<size_t>(num_rows);
  for (const InputTensor& tensor : inputs) {
    const TensorSpec* const spec = FindTensor(Inputs(), tensor.name);
    if (spec == nullptr) RefuseInput(tensor.name, "the model has no such input");
    if (std::ranges::count(inputs, tensor.name, &InputTensor::name) > 1) {
      RefuseInput(tensor.name, "is given twice");
    }
    CheckType(tensor, spec->type);
    if (tensor.shape.empty() || tensor.shape[0] != num_rows) {
      RefuseInput(tensor.name, StrCat("has shape ", ShowShape(tensor.shape), "; input_ids has ",
                                      num_rows, " rows, and all inputs must have as many"));
    }
  }
}

std::optional<InputTensor> InputRows::Find(std::string_view name, size_t row) const {
  const auto found = std::ranges::find(inputs_, name, &InputTensor::name);
  if (found == inputs_.end()) return std::nullopt;
  // Bytes that are no whole rows do not fit the shape of a row, which its readers find.
  const size_t row_bytes = found->data.size() / num_rows_;
  return InputTensor{name, found->type, found->shape.subspan(1),
                     found->data.subspan(row * row_bytes, row_bytes)};
}

std::string ShowShape(std::span<const int64_t> shape) {
  std::string shown;
  for (const int64_t dim : shape) shown += StrCat(shown.empty() ? "" : ", ", dim);
  return StrCat("[", shown, "]");
}

}  // namespace enginery::triton::trtllm
