// SPDX-License-Identifier: Apache-2.0
//
// What an op has to do in a step: what the profile (profiler.h) compares its time with.
#ifndef ENGINERY_SRC_EXEC_OP_WORK_H_
#define ENGINERY_SRC_EXEC_OP_WORK_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/program.h"
#include "exec/step_reader.h"

namespace enginery {

// The texts live as long as the op that gave them.
struct OpWork {
  std::string_view op;         // as in the program; of fused ones "linear+silu_mul"
  std::string_view role = {};  // whose weight it multiplies with: "qkv_proj"; empty: none
  // Of weights and KV, read or written, each once: what must come from memory. Activations are left
  // out, for caches hold them.
  int64_t bytes = 0;
  int64_t operations = 0;      // of its products; a multiply-add counts two
  std::string_view unit = {};  // what is multiplied: "f32", "bf16", "i8"; empty: no products
};

// The work of a product with a weight.
class ProductWork {
 public:
  // Input `weight` of the step is the weight [n, k], `x` its other factor. All of the step's
  // tensors are read.
  ProductWork(const StepReader& step, size_t weight, const ValueOperand& x);

  OpWork ForRows(std::string_view op, int64_t num_rows) const;

 private:
  std::string role_;
  std::string_view unit_;
  int64_t bytes_ = 0;
  int64_t operations_per_row_ = 0;
};

// "model.layers.0.mlp.down_proj.weight" is the weight of "down_proj".
std::string_view WeightRole(std::string_view tensor_name);

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_OP_WORK_H_
