// SPDX-License-Identifier: Apache-2.0
#include "exec/op_work.h"

namespace enginery {

std::string_view WeightRole(std::string_view tensor_name) {
  constexpr std::string_view kSuffix = ".weight";
  if (tensor_name.ends_with(kSuffix)) tensor_name.remove_suffix(kSuffix.size());
  // npos + 1 is 0: a name of one part is taken whole.
  return tensor_name.substr(tensor_name.rfind('.') + 1);
}

ProductWork::ProductWork(const StepReader& step, size_t weight, const ValueOperand& x)
    : role_(WeightRole(step.tensor(weight).name)), unit_(Name(x.dtype)) {
  if (role_ == "embed_tokens") role_ = "lm_head";  // a tied weight has the embedding's name
  for (size_t i = 0; i < step.step().inputs.size(); ++i) {
    if (step.step().inputs[i].kind != Operand::Kind::kTensor) continue;
    bytes_ += static_cast<int64_t>(step.tensor(i).bytes);
  }
  operations_per_row_ = 2;
  for (const uint64_t size : step.tensor(weight).shape) {
    operations_per_row_ *= static_cast<int64_t>(size);
  }
}

OpWork ProductWork::ForRows(std::string_view op, int64_t num_rows) const {
  return {op, role_, num_rows > 0 ? bytes_ : 0, num_rows * operations_per_row_, unit_};
}

}  // namespace enginery
