// SPDX-License-Identifier: Apache-2.0
//
// What a response of the native backend holds, as a client would read it.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "native/output_tensor.h"

namespace enginery::triton {

inline std::map<std::string, OutputTensor> ByName(std::vector<OutputTensor> tensors) {
  std::map<std::string, OutputTensor> found;
  for (OutputTensor& tensor : tensors) found[tensor.spec->name] = std::move(tensor);
  return found;
}

// All values, of which there must be as many as the shape says.
template <class Number>
std::vector<Number> Values(const OutputTensor& tensor) {
  std::vector<Number> values(tensor.data.size() / sizeof(Number));
  if (!values.empty()) std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  int64_t count = 1;
  for (const int64_t dim : tensor.shape) count *= dim;
  CHECK_EQ(count, static_cast<int64_t>(values.size()));
  return values;
}

}  // namespace enginery::triton
