// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_ENGINERY_CODEC_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_ENGINERY_CODEC_H_

#include <memory>

#include "codec.h"
#include "model_config.h"

namespace enginery::triton {

// Of the layout `enginery`: one row a request.
std::unique_ptr<Codec> MakeEngineryCodec(const ModelConfig& config, const EngineFacts& engine);

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_ENGINERY_CODEC_H_
