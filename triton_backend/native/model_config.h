// SPDX-License-Identifier: Apache-2.0
//
// config.pbtxt, as the JSON in which Triton server hands it over.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_MODEL_CONFIG_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_MODEL_CONFIG_H_

#include <string_view>

#include "layout.h"
#include "model_options.h"

namespace enginery::triton {

struct ModelConfig {
  const Layout* layout = nullptr;
  ModelOptions options;
  bool is_decoupled = false;
  bool excludes_input = false;  // `exclude_input_in_output` of requests that do not say
};

// Throws Error (INVALID_ARGUMENT) that lists everything in which the file differs from what this
// backend serves: its layout's inputs, outputs, batching, instances, parameters.
ModelConfig ReadModelConfig(std::string_view json);

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_MODEL_CONFIG_H_
