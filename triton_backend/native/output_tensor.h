// SPDX-License-Identifier: Apache-2.0
//
// Outputs of a response, in the bytes that Triton server takes.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_OUTPUT_TENSOR_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_OUTPUT_TENSOR_H_

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensors.h"

namespace enginery::triton {

struct OutputTensor {
  const TensorSpec* spec = nullptr;
  std::vector<int64_t> shape;
  std::string data;
};

// Collects the outputs of one response.
class TensorList {
 public:
  // `specs`: of all outputs that are added.
  explicit TensorList(std::span<const TensorSpec> specs) : specs_(specs) {}

  void AddText(std::string_view name, std::string_view text) {
    const auto num_bytes = static_cast<uint32_t>(text.size());
    std::string data(sizeof num_bytes, '\0');
    std::memcpy(data.data(), &num_bytes, sizeof num_bytes);
    Add(name, {1}, data.append(text));
  }

  // `values`: as many as `shape` says.
  template <class Number>
  void AddNumbers(std::string_view name, std::span<const Number> values,
                  std::vector<int64_t> shape) {
    std::string data(values.size_bytes(), '\0');
    if (!values.empty()) std::memcpy(data.data(), values.data(), data.size());
    Add(name, std::move(shape), std::move(data));
  }

  template <class Number>
  void AddNumbers(std::string_view name, const std::vector<Number>& values) {
    AddNumbers(name, std::span(values), {static_cast<int64_t>(values.size())});
  }

  template <class Number>
  void AddNumber(std::string_view name, int64_t value) {
    AddNumbers(name, std::vector<Number>{static_cast<Number>(value)});
  }

  std::vector<OutputTensor> Take() { return std::move(tensors_); }

 private:
  void Add(std::string_view name, std::vector<int64_t> shape, std::string data) {
    tensors_.push_back({FindTensor(specs_, name), std::move(shape), std::move(data)});
  }

  std::span<const TensorSpec> specs_;
  std::vector<OutputTensor> tensors_;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_OUTPUT_TENSOR_H_
