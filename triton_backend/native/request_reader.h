// SPDX-License-Identifier: Apache-2.0
//
// From the input tensors of a Triton server request to what the runtime takes. Everything here may
// have come from a hostile client: shapes, sizes and bytes are believed only after a check.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_READER_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_READER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "generation_request.h"
#include "tensors.h"

namespace enginery::triton {

// One input as it came.
struct InputTensor {
  std::string_view name;
  DataType type = DataType::kOther;
  std::span<const int64_t> shape;
  std::span<const std::byte> data;
};

// Throws Error (INVALID_ARGUMENT) that names the input, what it is and what is accepted.
GenerationRequest ReadRequest(std::span<const InputTensor> inputs);

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_READER_H_
