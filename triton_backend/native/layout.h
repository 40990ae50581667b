// SPDX-License-Identifier: Apache-2.0
//
// The layouts of which this backend serves a model, and how to tell whose a config.pbtxt is.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_LAYOUT_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_LAYOUT_H_

#include <memory>
#include <span>
#include <string_view>

#include "codec.h"
#include "tensors.h"

namespace enginery::triton {

struct ModelConfig;

// A parameter of config.pbtxt that one layout has beside ModelOptions; true or false.
struct LayoutParameter {
  std::string_view name;
  bool ModelConfig::* field;
};

struct Layout {
  std::span<const TensorSpec> inputs;
  std::span<const TensorSpec> outputs;
  std::span<const LayoutParameter> parameters;
  bool has_rows;  // tensors begin with a batch dimension, and max_batch_size bounds it
  std::unique_ptr<Codec> (*make_codec)(const ModelConfig& config, const EngineFacts& engine);
};

std::span<const Layout> Layouts();

// The one that has most of these inputs.
const Layout& ChooseLayout(std::span<const std::string_view> inputs);

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_LAYOUT_H_
