// SPDX-License-Identifier: Apache-2.0
//
// Refuses inputs that ask for what there is not, and parameters that no model reads, in the words
// of triton_backend/trtllm/refusals.py.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_REFUSALS_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_REFUSALS_H_

#include <span>
#include <string_view>

#include "native/input_tensor.h"
#include "native/request_parameters.h"

namespace enginery::triton::trtllm {

// The parameter in which `tensorrt_llm_bls` names a request, beside the id that clients choose.
inline constexpr std::string_view kTicket = "enginery_ticket";

// Throws Error (INVALID_ARGUMENT) that lists the inputs that ask for something, with the reasons.
void RefuseUnsupported(std::span<const InputTensor> inputs);

// Throws Error (INVALID_ARGUMENT) that lists the names, with the input that was perhaps meant.
void RefuseParameters(std::span<const RequestParameter> parameters);

}  // namespace enginery::triton::trtllm

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_REFUSALS_H_
