// SPDX-License-Identifier: Apache-2.0
#include "layout.h"

#include <algorithm>

#include "enginery_codec.h"
#include "model_config.h"
#include "trtllm/codec.h"
#include "trtllm/tensors.h"

namespace enginery::triton {

std::span<const Layout> Layouts() {
  static constexpr LayoutParameter kTrtllmParameters[] = {
      {"exclude_input_in_output", &ModelConfig::excludes_input},
  };
  static const Layout kLayouts[] = {
      {Inputs(), Outputs(), {}, false, MakeEngineryCodec},
      {trtllm::Inputs(), trtllm::Outputs(), kTrtllmParameters, true, trtllm::MakeCodec},
  };
  return kLayouts;
}

const Layout& ChooseLayout(std::span<const std::string_view> inputs) {
  const auto num_known = [inputs](const Layout& layout) {
    return std::ranges::count_if(
        inputs, [&](std::string_view name) { return FindTensor(layout.inputs, name) != nullptr; });
  };
  return *std::ranges::max_element(Layouts(), {}, num_known);
}

}  // namespace enginery::triton
