// SPDX-License-Identifier: Apache-2.0
//
// Inputs of a Triton server request, as a client of the native backend would send them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "native/input_tensor.h"

namespace enginery::triton {

// One input that owns its shape and bytes.
struct Tensor {
  std::string name;
  DataType type;
  std::vector<int64_t> shape;
  std::string data;
};

template <class Number>
Tensor Numbers(std::string name, DataType type, const std::vector<Number>& values) {
  Tensor tensor{std::move(name), type, {static_cast<int64_t>(values.size())}, ""};
  tensor.data.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Number));
  return tensor;
}

inline Tensor Ids(std::string name, const std::vector<int32_t>& ids) {
  return Numbers(std::move(name), DataType::kInt32, ids);
}
inline Tensor Real(std::string name, float value) {
  return Numbers<float>(std::move(name), DataType::kFp32, {value});
}
inline Tensor Bool(std::string name, uint8_t value) {
  return Numbers<uint8_t>(std::move(name), DataType::kBool, {value});
}
inline Tensor Texts(std::string name, const std::vector<std::string>& texts) {
  Tensor tensor{std::move(name), DataType::kString, {static_cast<int64_t>(texts.size())}, ""};
  for (const std::string& text : texts) {
    const auto num_bytes = static_cast<uint32_t>(text.size());
    tensor.data.append(reinterpret_cast<const char*>(&num_bytes), sizeof num_bytes).append(text);
  }
  return tensor;
}

// As the backend gets them; they point into `tensors`.
inline std::vector<InputTensor> Views(const std::vector<Tensor>& tensors) {
  std::vector<InputTensor> inputs;
  for (const Tensor& tensor : tensors) {
    inputs.push_back({tensor.name, tensor.type, tensor.shape,
                      std::as_bytes(std::span<const char>(tensor.data))});
  }
  return inputs;
}

// That `read` throws INVALID_ARGUMENT, with `part` in the message.
template <class Read>
void CheckThrows(const Read& read, const std::string& part) {
  try {
    read();
    test::fail(__FILE__, __LINE__, "accepted, where \"" + part + "\" was due");
  } catch (const Error& error) {
    CHECK_EQ(error.status(), ENGINERY_INVALID_ARGUMENT);
    const std::string message = error.what();
    if (message.find(part) == std::string::npos) {
      test::fail(__FILE__, __LINE__, "\"" + message + "\" lacks \"" + part + "\"");
    }
  }
}

}  // namespace enginery::triton
