// SPDX-License-Identifier: Apache-2.0
//
// From the input tensors of a Triton server request to what the runtime takes.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_READER_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_READER_H_

#include <span>

#include "generation_request.h"
#include "input_tensor.h"

namespace enginery::triton {

// Throws Error (INVALID_ARGUMENT) that names the input, what it is and what is accepted.
GenerationRequest ReadRequest(std::span<const InputTensor> inputs);

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_READER_H_
