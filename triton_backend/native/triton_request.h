// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_TRITON_REQUEST_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_TRITON_REQUEST_H_

#include "generation_request.h"
#include "triton_api.h"

namespace enginery::triton {

// Reads and checks parameters, inputs and the time limit of Triton server's request. Throws Error.
// `is_decoupled`: whether the model may answer a request more than once.
GenerationRequest ReadTritonRequest(TRITONBACKEND_Request* request, bool is_decoupled);

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_TRITON_REQUEST_H_
