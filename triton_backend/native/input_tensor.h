// SPDX-License-Identifier: Apache-2.0
//
// One input of a Triton server request, and its values. It may have come from a hostile client:
// shapes, sizes and bytes are believed only after a check.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_INPUT_TENSOR_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_INPUT_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "option_value.h"
#include "tensors.h"

namespace enginery::triton {

// One input as it came.
struct InputTensor {
  std::string_view name;
  DataType type = DataType::kOther;
  std::span<const int64_t> shape;
  std::span<const std::byte> data;
};

// Everything below throws Error (INVALID_ARGUMENT) that names the input, what it is and what is
// accepted.
[[noreturn]] void RefuseInput(std::string_view name, std::string_view problem);

// Refuses a tensor of another type than `type`.
void CheckType(const InputTensor& tensor, DataType type);

// How many values of `value_bytes` each it has. Refuses a shape that does not fit the bytes.
uint64_t NumValues(const InputTensor& tensor, size_t value_bytes);

template <class Number>
std::vector<Number> ReadNumbers(const InputTensor& tensor) {
  std::vector<Number> values(NumValues(tensor, sizeof(Number)));
  if (!values.empty()) std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

// Of bytes that are BOOL: refuses what is neither 0 nor 1.
bool AsTruth(std::string_view name, uint8_t value);

std::vector<std::string> ReadTexts(const InputTensor& tensor);

// One value, or a list where the dims of `spec` are kAny.
OptionValue ReadValue(const TensorSpec& spec, const InputTensor& tensor);

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_INPUT_TENSOR_H_
