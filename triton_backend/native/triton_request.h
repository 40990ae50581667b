// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_TRITON_REQUEST_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_TRITON_REQUEST_H_

#include "codec.h"
#include "triton_api.h"

namespace enginery::triton {

// Reads parameters, inputs and the time limit of Triton server's request, and has the codec check
// them. Throws Error.
ModelRequest ReadTritonRequest(TRITONBACKEND_Request* request, const Codec& codec);

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_TRITON_REQUEST_H_
