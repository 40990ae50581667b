// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_CODEC_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_CODEC_H_

#include <memory>

#include "native/codec.h"
#include "native/model_config.h"

namespace enginery::triton::trtllm {

// Of `tensorrt_llm`: a request may have several rows, and one may cancel others by their names.
std::unique_ptr<Codec> MakeCodec(const ModelConfig& config, const EngineFacts& engine);

}  // namespace enginery::triton::trtllm

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_CODEC_H_
