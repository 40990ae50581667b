// SPDX-License-Identifier: Apache-2.0
//
// The tensors of the served model. triton_backend/tensors.py is the source; tests compare both with
// tests/triton_backend/golden/native_contract.txt.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_TENSORS_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_TENSORS_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace enginery::triton {

enum class DataType : uint8_t {
  kOther,
  kString,
  kInt32,
  kInt64,
  kUint8,
  kUint64,
  kFp16,
  kFp32,
  kBool
};

// As in config.pbtxt, without TYPE_.
std::string_view DataTypeName(DataType type);

// Dims, as config.pbtxt has them.
inline constexpr std::string_view kOne = "1";
inline constexpr std::string_view kAny = "-1";  // any length

struct TensorSpec {
  const char* name;
  DataType type;
  std::string_view dims;  // without the batch dimension, e.g. "2, -1"
  // Inputs: the option of sampling_parameters that it sets; "": the model reads it itself.
  std::string_view option = "";
  bool is_optional = true;
};

std::span<const TensorSpec> Inputs();
std::span<const TensorSpec> Outputs();

// NULL when there is none of that name.
const TensorSpec* FindTensor(std::span<const TensorSpec> specs, std::string_view name);

// "a, b, c": for messages.
std::string TensorNames(std::span<const TensorSpec> specs);

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_TENSORS_H_
