// SPDX-License-Identifier: Apache-2.0
//
// A rank's program prepared to run: steps resolved to ops with checked operands, and what they need
// of memory. Made once per engine; a step of the model then only runs it.
#ifndef ENGINERY_SRC_EXEC_PLAN_H_
#define ENGINERY_SRC_EXEC_PLAN_H_

#include <memory>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/model_config.h"
#include "engine/program.h"
#include "exec/kv_cache.h"
#include "exec/op.h"
#include "exec/step_reader.h"

namespace enginery {

// A matrix of the workspace and the steps that it must live through, both included. One whose last
// step is before its first is not there: ops that run as one do without it.
struct BufferSpec {
  Rows rows;
  DType dtype;
  int64_t columns;
  bool is_dense;  // rows follow each other without padding
  int64_t first_step, last_step;
};

// Cosines and sines of the step's tokens, computed once per step for all layers that rotate by the
// same angles.
struct RopeSpec {
  const float* inv_freq;  // [head_dim / 2]
  int64_t half_dim;
  float scale;
  size_t buffer;  // f32 [tokens, 2 half_dim]: cosines, then sines
};

// A step that all ranks take part in.
struct CollectiveStep {
  enum class Kind { kAllReduce, kAllGather };
  Kind kind;
  Rows rows;
  int64_t columns;  // of x
  size_t x, y;      // values
};

using PreparedStep = std::variant<std::unique_ptr<Op>, CollectiveStep>;

struct Plan {
  ModelConfig config;
  KvShape kv;
  std::vector<PreparedStep> steps;
  std::vector<BufferSpec> buffers;  // the program's values, then those that ops asked for
  std::vector<RopeSpec> ropes;
  int64_t thread_scratch_bytes = 0;
  size_t logits = 0;  // value

  // Of its ops, in order.
  std::vector<Product*> products() const;
};

// What the preparation of an op may ask for.
class PlanBuilder {
 public:
  PlanBuilder(const Program& program, int64_t tp_size);

  const ModelConfig& config() const { return plan_.config; }
  int64_t tp_size() const { return tp_size_; }
  DType kv_dtype() const { return plan_.kv.dtype; }
  // Whether the step brings scales of keys and values, as `input` and the next one; throws
  // ENGINERY_INVALID_PROGRAM when the KV cache is not of the dtype for that.
  bool ExpectKvScales(const StepReader& step, size_t input) const;
  int64_t query_tile_tokens() const;
  // A buffer for the step being prepared.
  size_t AddBuffer(Rows rows, DType dtype, int64_t columns);
  // The buffer of cosines and sines for the step's angles: of input `inv_freq_input`, times its
  // attribute rope_scale.
  size_t AddRope(const StepReader& step, size_t inv_freq_input);
  void RequireThreadScratch(int64_t bytes);
  // For ops that read what they write: throws ENGINERY_INVALID_PROGRAM when an earlier step has not
  // written it.
  void ExpectWritten(const StepReader& step, const ValueOperand& value) const;

  Plan Build() &&;

 private:
  // Returns how many steps it prepared: one, or two that run as one.
  size_t PrepareSteps(size_t index);
  // Whether step `index` is a product that only the `silu_mul` after it reads.
  bool FusesSiluMul(size_t index) const;
  void TrackOperands(const StepReader& step, size_t index,
                     std::optional<size_t> without = std::nullopt);
  void FindLogits();
  void LinkProducts();

  const Program& program_;
  int64_t tp_size_;
  Plan plan_;
  size_t step_index_ = 0;
  std::vector<bool> is_written_;
};

// Tokens of a query tile: small enough that its rows (tokens times heads of a group) stay in the
// cache.
int64_t QueryTileTokens(const ModelConfig& config);

// How an op is prepared: checks its operands and makes it. Throws Error.
using PrepareFunction = PreparedStep (*)(const StepReader& step, PlanBuilder& plan);
// Null when there is no such op or version.
PrepareFunction FindOp(std::string_view name, uint32_t version);

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_PLAN_H_
