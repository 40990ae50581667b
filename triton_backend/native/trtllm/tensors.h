// SPDX-License-Identifier: Apache-2.0
//
// The tensors of `tensorrt_llm`. triton_backend/trtllm/tensors.py is the source; tests compare both
// with tests/triton_backend/trtllm/golden/native_contract.txt.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_TENSORS_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_TENSORS_H_

#include <span>
#include <string_view>

#include "../request_parameters.h"
#include "../tensors.h"

namespace enginery::triton::trtllm {

std::span<const TensorSpec> Inputs();
std::span<const TensorSpec> Outputs();

// The inputs that are refused when they ask for something, with the value that asks for nothing; so
// does a tensor without elements.
std::span<const UnsupportedOption> RefusedInputs();

// What the ensemble calls an input of one of its steps.
struct EnsembleInput {
  std::string_view name;
  std::string_view target;
};
std::span<const EnsembleInput> EnsembleInputs();

}  // namespace enginery::triton::trtllm

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_TENSORS_H_
