// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "exec/ops/ops.h"
#include "exec/ops/rows.h"

namespace enginery {
namespace {

// Elements of the cache that stand together (kv_cache.h).
template <class T>
constexpr int64_t kGroup = sizeof(T) == 4 ? 1 : 2;

// Writes a token's key: one group of dimensions in each row of the panel. head_dim is even.
template <class T>
void WriteKey(std::byte* panel, int64_t tokens_per_block, int64_t offset, int64_t head_dim,
              const T* key) {
  T* k = reinterpret_cast<T*>(panel) + offset * kGroup<T>;
  for (int64_t d = 0; d < head_dim; d += kGroup<T>) {
    std::memcpy(k + d * tokens_per_block, key + d, kGroup<T> * sizeof(T));
  }
}

// Where a token's value begins; its dimensions are a group apart.
template <class T>
T* ValueAt(std::byte* values, int64_t offset, int64_t head_dim) {
  return reinterpret_cast<T*>(values) + offset / kGroup<T> * kGroup<T> * PaddedHeadDim(head_dim) +
         offset % kGroup<T>;
}

class KvAppend final : public Op {
 public:
  struct Config {
    int64_t layer, num_kv_heads, head_dim;
    const float* k_norm;  // null: none
    float epsilon;
    float k_inverse_scale, v_inverse_scale;  // of codes
    size_t rope;                             // buffer
  };
  KvAppend(const ValueOperand& kv, const Config& config)
      : kv_(kv),
        config_(config),
        num_columns_(2 * config.num_kv_heads * config.head_dim),
        first_column_(kv.columns - num_columns_) {}

  void Run(const StepContext& context) const override {
    const int64_t* slots = context.batch.slot_mapping;
    const auto body = [&](int64_t begin, int64_t end, int thread) {
      for (int64_t row = begin; row < end; ++row) {
        FetchRow(context.value(kv_.index), row + 1, num_columns_ * 4, first_column_ * 4);
        RotateKeys(context, row);
        WriteKeys(context, row, context.thread_scratch(thread));
      }
      // Tokens of a pair stand together in V: two at once where both are here.
      for (int64_t row = begin; row < end;) {
        const bool is_pair =
            row + 1 < end && slots[row] % 2 == 0 && slots[row + 1] == slots[row] + 1;
        WriteValues(context, row, is_pair, context.thread_scratch(thread));
        row += is_pair ? 2 : 1;
      }
    };
    // What is written lies far apart: an element costs some five times one of other row loops.
    ForEachRows(context, context.batch.num_tokens, 5 * num_columns_, body);
  }

  OpWork Work(const StepContext& context) const override {
    return {.op = "kv_append", .bytes = context.batch.num_tokens * context.kv.shape.token_bytes()};
  }

 private:
  // Norms (where there is a norm) and rotates a token's keys.
  void RotateKeys(const StepContext& context, int64_t row) const {
    const int64_t head_dim = config_.head_dim;
    float* keys = Keys(context, row);
    for (int64_t h = 0; config_.k_norm != nullptr && h < config_.num_kv_heads; ++h) {
      float* key = keys + h * head_dim;
      context.kernels.rms_norm_row(key, config_.k_norm, head_dim, config_.epsilon, key);
    }
    const float* cos = context.value(config_.rope).row<float>(row);
    context.kernels.rope_heads(keys, config_.num_kv_heads, head_dim, cos, cos + head_dim / 2);
  }

  // K of a head in the block of a token; V is shape.k_bytes() further.
  std::byte* Block(const StepContext& context, int64_t head, int64_t slot) const {
    const KvShape& shape = context.kv.shape;
    return context.kv.head(config_.layer, head) +
           slot / shape.tokens_per_block * shape.head_bytes();
  }
  // A token's first key, of kv head 0; values follow the keys.
  float* Keys(const StepContext& context, int64_t row) const {
    return context.value(kv_.index).row<float>(row) + first_column_;
  }

  void WriteKeys(const StepContext& context, int64_t row, float* scratch) const {
    const KvShape& shape = context.kv.shape;
    const int64_t slot = context.batch.slot_mapping[row];
    const int64_t offset = slot % shape.tokens_per_block;
    for (int64_t h = 0; h < config_.num_kv_heads; ++h) {
      const float* key = Keys(context, row) + h * shape.head_dim;
      std::byte* block = Block(context, h, slot);
      if (shape.dtype == DType::kF32) {
        WriteKey(block, shape.tokens_per_block, offset, shape.head_dim, key);
      } else if (shape.element_bytes() == 1) {
        auto* codes = reinterpret_cast<uint8_t*>(scratch);
        Quantize(context, key, config_.k_inverse_scale, codes);
        WriteKey(block, shape.tokens_per_block, offset, shape.head_dim, codes);
      } else {
        uint16_t* rounded = reinterpret_cast<uint16_t*>(scratch);
        context.kernels.bf16_row(key, shape.head_dim, rounded);
        WriteKey(block, shape.tokens_per_block, offset, shape.head_dim, rounded);
      }
    }
  }

  // A head's codes.
  void Quantize(const StepContext& context, const float* head, float inverse_scale,
                uint8_t* codes) const {
    const auto quantize =
        context.kv.shape.dtype == DType::kI8 ? context.kernels.i8_row : context.kernels.e4m3_row;
    quantize(head, config_.head_dim, inverse_scale, codes);
  }

  // Of a token, or of it and the next one, whose slots are a pair.
  void WriteValues(const StepContext& context, int64_t row, bool is_pair, float* scratch) const {
    const KvShape& shape = context.kv.shape;
    const int64_t slot = context.batch.slot_mapping[row];
    const int64_t offset = slot % shape.tokens_per_block;
    for (int64_t h = 0; h < config_.num_kv_heads; ++h) {
      const int64_t column = (config_.num_kv_heads + h) * shape.head_dim;
      const float* value = Keys(context, row) + column;
      std::byte* values = Block(context, h, slot) + shape.k_bytes();
      if (shape.dtype == DType::kF32) {
        std::memcpy(ValueAt<float>(values, offset, shape.head_dim), value,
                    static_cast<size_t>(shape.head_dim) * sizeof(float));
        if (is_pair) {
          std::memcpy(ValueAt<float>(values, offset + 1, shape.head_dim),
                      Keys(context, row + 1) + column,
                      static_cast<size_t>(shape.head_dim) * sizeof(float));
        }
        continue;
      }
      if (shape.element_bytes() == 1) {
        const float* rows[] = {value, Keys(context, row + (is_pair ? 1 : 0)) + column};
        for (int64_t i = 0; i < (is_pair ? 2 : 1); ++i) {
          auto* codes = reinterpret_cast<uint8_t*>(scratch);
          Quantize(context, rows[i], config_.v_inverse_scale, codes);
          uint8_t* to = ValueAt<uint8_t>(values, offset + i, shape.head_dim);
          for (int64_t d = 0; d < shape.head_dim; ++d) to[2 * d] = codes[d];
        }
        continue;
      }
      uint16_t* to = ValueAt<uint16_t>(values, offset, shape.head_dim);
      if (is_pair) {
        context.kernels.bf16_row_pair(value, Keys(context, row + 1) + column, shape.head_dim, to);
      } else {
        uint16_t* rounded = reinterpret_cast<uint16_t*>(scratch);
        context.kernels.bf16_row(value, shape.head_dim, rounded);
        for (int64_t d = 0; d < shape.head_dim; ++d) to[2 * d] = rounded[d];
      }
    }
  }

  const ValueOperand kv_;
  const Config config_;
  const int64_t num_columns_, first_column_;  // of keys and values, the last of a row
};

}  // namespace

PreparedStep PrepareKvAppend(const StepReader& step, PlanBuilder& plan) {
  step.Expect(5, 1, {"layer", "rope_scale", "epsilon"});
  const bool has_scales = plan.ExpectKvScales(step, 3);
  const ModelConfig& config = plan.config();
  const ValueOperand kv = step.input(0, {DType::kF32});
  step.ExpectSame(kv, step.output(0, {DType::kF32}));
  if (kv.columns != 2 * config.num_kv_heads * config.head_dim) {
    step.ExpectColumns("input 0", kv.columns,
                       (config.num_heads + 2 * config.num_kv_heads) * config.head_dim);
  }
  if (kv.rows != Rows::kTokens) step.ThrowInvalid("input 0 must be of tokens");
  KvAppend::Config prepared{};
  prepared.layer = step.int_attribute("layer", 0, config.num_layers - 1);
  prepared.num_kv_heads = config.num_kv_heads;
  prepared.head_dim = config.head_dim;
  prepared.k_norm = step.optional_f32_vector(2, config.head_dim);
  prepared.epsilon = step.float_attribute("epsilon", 0, 1);
  if (has_scales) {
    prepared.k_inverse_scale = 1.0f / step.scale(3);
    prepared.v_inverse_scale = 1.0f / step.scale(4);
  }
  prepared.rope = plan.AddRope(step, 1);
  plan.RequireThreadScratch(config.head_dim * 2);
  return std::make_unique<KvAppend>(kv, prepared);
}

}  // namespace enginery
