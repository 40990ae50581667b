// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_INPUT_ROWS_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_INPUT_ROWS_H_

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "native/input_tensor.h"
#include "tensors.h"

namespace enginery::triton::trtllm {

// The inputs of a request, row by row. Every function throws Error (INVALID_ARGUMENT) that names
// the input, what it is and what is accepted.
class InputRows {
 public:
  // All must have as many rows as `input_ids`, and one at least. They are not copied.
  explicit InputRows(std::span<const InputTensor> inputs);

  size_t size() const { return num_rows_; }

  // What a row has of an input, without the batch dimension; nullopt when it was not given.
  std::optional<InputTensor> Find(std::string_view name, size_t row) const;

  // Its value, in the type that OptionValue has for it.
  template <class Value>
  std::optional<Value> Get(std::string_view name, size_t row) const {
    const std::optional<InputTensor> tensor = Find(name, row);
    if (!tensor) return std::nullopt;
    return std::get<Value>(ReadValue(*FindTensor(Inputs(), name), *tensor));
  }

 private:
  const std::span<const InputTensor> inputs_;
  size_t num_rows_ = 0;
};

// "[2, 3]": for messages.
std::string ShowShape(std::span<const int64_t> shape);

}  // namespace enginery::triton::trtllm

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_INPUT_ROWS_H_
