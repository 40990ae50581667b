// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "exec/ops/ops.h"
#include "exec/ops/rows.h"

namespace enginery {
namespace {

// Writes one head's key and value; see kv_cache.h for the order of a block. head_dim is even.
template <class T>
void WriteSlot(std::byte* k_tile, int64_t v_offset, int64_t tokens_per_block, int64_t offset,
               int64_t head_dim, const T* key, const T* value) {
  constexpr int64_t kGroup = 4 / sizeof(T);
  T* k = reinterpret_cast<T*>(k_tile) + offset * kGroup;
  for (int64_t d = 0; d < head_dim; d += kGroup) {
    std::memcpy(k + d * tokens_per_block, key + d, kGroup * sizeof(T));
  }
  T* v = reinterpret_cast<T*>(k_tile + v_offset) +
         offset / kGroup * kGroup * PaddedHeadDim(head_dim) + offset % kGroup;
  for (int64_t d = 0; d < head_dim; ++d) v[d * kGroup] = value[d];
}

class KvAppend final : public Op {
 public:
  struct Config {
    int64_t layer, num_heads, num_kv_heads, head_dim;
    const float* q_norm;  // null: none
    const float* k_norm;
    float epsilon;
    size_t rope;  // buffer
  };
  KvAppend(const ValueOperand& qkv, const Config& config) : qkv_(qkv), config_(config) {}

  void Run(const StepContext& context) const override {
    const Matrix& qkv = context.value(qkv_.index);
    ForEachRow(context, context.batch.num_tokens, qkv_.columns, [&](int64_t row, int thread) {
      float* heads = qkv.row<float>(row);
      Rotate(context, row, heads, config_.num_heads, config_.q_norm);
      float* keys = heads + config_.num_heads * config_.head_dim;
      Rotate(context, row, keys, config_.num_kv_heads, config_.k_norm);
      const float* values = keys + config_.num_kv_heads * config_.head_dim;
      for (int64_t h = 0; h < config_.num_kv_heads; ++h) {
        Append(context, row, h, keys + h * config_.head_dim, values + h * config_.head_dim,
               context.thread_scratch(thread));
      }
    });
  }

  OpWork Work(const StepContext& context) const override {
    return {.op = "kv_append", .bytes = context.batch.num_tokens * context.kv.shape.token_bytes()};
  }

 private:
  void Rotate(const StepContext& context, int64_t row, float* heads, int64_t num_heads,
              const float* norm) const {
    const float* cos = context.value(config_.rope).row<float>(row);
    const float* sin = cos + config_.head_dim / 2;
    for (int64_t h = 0; h < num_heads; ++h) {
      float* head = heads + h * config_.head_dim;
      if (norm != nullptr) {
        context.kernels.rms_norm_row(head, norm, config_.head_dim, config_.epsilon, head);
      }
      context.kernels.rope_row(head, cos, sin, config_.head_dim / 2);
    }
  }

  void Append(const StepContext& context, int64_t row, int64_t head, const float* key,
              const float* value, float* scratch) const {
    const KvShape& shape = context.kv.shape;
    const int64_t slot = context.batch.slot_mapping[row];
    const int64_t offset = slot % shape.tokens_per_block;
    std::byte* k_tile = context.kv.head(config_.layer, head) +
                        slot / shape.tokens_per_block * context.kv.block_bytes;
    if (shape.dtype == DType::kF32) {
      WriteSlot(k_tile, shape.k_bytes(), shape.tokens_per_block, offset, shape.head_dim, key,
                value);
      return;
    }
    uint16_t* rounded = reinterpret_cast<uint16_t*>(scratch);  // [2][head_dim]
    context.kernels.bf16_row(key, shape.head_dim, rounded);
    context.kernels.bf16_row(value, shape.head_dim, rounded + shape.head_dim);
    WriteSlot(k_tile, shape.k_bytes(), shape.tokens_per_block, offset, shape.head_dim, rounded,
              rounded + shape.head_dim);
  }

  const ValueOperand qkv_;
  const Config config_;
};

}  // namespace

PreparedStep PrepareKvAppend(const StepReader& step, PlanBuilder& plan) {
  step.Expect(4, 1, {"layer", "rope_scale", "epsilon"});
  const ModelConfig& config = plan.config();
  const ValueOperand qkv = step.input(0, {DType::kF32});
  step.ExpectSame(qkv, step.output(0, {DType::kF32}));
  step.ExpectColumns("input 0", qkv.columns,
                     (config.num_heads + 2 * config.num_kv_heads) * config.head_dim);
  if (qkv.rows != Rows::kTokens) step.ThrowInvalid("input 0 must be of tokens");
  const int64_t half_dim = config.head_dim / 2;
  KvAppend::Config prepared{};
  prepared.layer = step.int_attribute("layer", 0, config.num_layers - 1);
  prepared.num_heads = config.num_heads;
  prepared.num_kv_heads = config.num_kv_heads;
  prepared.head_dim = config.head_dim;
  prepared.q_norm = step.optional_f32_vector(2, config.head_dim);
  prepared.k_norm = step.optional_f32_vector(3, config.head_dim);
  prepared.epsilon = step.float_attribute("epsilon", 0, 1);
  prepared.rope = plan.AddRope(step.f32_vector(1, half_dim), half_dim,
                               step.float_attribute("rope_scale", 0, 1e6));
  plan.RequireThreadScratch(2 * config.head_dim * 2);
  return std::make_unique<KvAppend>(qkv, prepared);
}

}  // namespace enginery
