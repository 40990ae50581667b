// SPDX-License-Identifier: Apache-2.0
//
// config.pbtxt, as the JSON in which Triton server hands it over.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_MODEL_CONFIG_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_MODEL_CONFIG_H_

#include <string_view>

#include "model_options.h"

namespace enginery::triton {

struct ModelConfig {
  ModelOptions options;
  bool is_decoupled = false;
};

// Throws Error (INVALID_ARGUMENT) that lists everything in which the file differs from what this
// backend serves: inputs, outputs, batching, instances, parameters.
ModelConfig ReadModelConfig(std::string_view json);

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_MODEL_CONFIG_H_
