// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <iterator>

#include "exec/ops/ops.h"
#include "exec/ops/rows.h"

namespace enginery {
namespace {

class PagedAttention final : public Op {
 public:
  struct Config {
    int64_t layer, num_heads, num_kv_heads, head_dim, sliding_window;
    const float* q_norm;  // null: none
    float epsilon;
    size_t rope;          // buffer
    float scale;          // of the scores, times that of K's codes
    float value_scale;    // of V's codes
    float inverse_scale;  // of a static scale of y, 0: none
    size_t result;        // f32 buffer; y itself when that is f32
  };
  PagedAttention(const ValueOperand& q, const ValueOperand& y, const Config& config)
      : q_(q), y_(y), config_(config) {}

  void Run(const StepContext& context) const override {
    const AttentionKernel kernel = KernelFor(context.kernels, context.kv.shape.dtype);
    // Tasks are (query tile, KV head), the heads of a tile beside each other.
    const int64_t num_tasks = std::ssize(tiles(context)) * config_.num_kv_heads;
    context.pool.ParallelFor(num_tasks, [&](int64_t task, int thread) {
      float* scratch = context.thread_scratch(thread);
      AttentionArgs args = TaskArgs(context, task, scratch);
      AttentionArgs next{};
      if (task + 1 < num_tasks) {
        next = TaskArgs(context, task + 1, scratch);
        args.next = &next;
      }
      kernel(args);
    });
    if (y_.dtype == DType::kF32) return;
    const Matrix& result = context.value(config_.result);
    const Matrix& y = context.value(y_.index);
    ForEachRow(context, context.num_rows(y_.rows), y_.columns, [&](int64_t row, int) {
      FetchRow(result, row + 1, y_.columns * 4);
      StoreRow(context, result.row<float>(row), y, y_.dtype, row, y_.columns,
               config_.inverse_scale);
    });
  }

  OpWork Work(const StepContext& context) const override {
    int64_t num_read = 0;    // tokens of KV
    int64_t num_scores = 0;  // pairs of a query and a token that it sees
    const QueryTile* before = nullptr;
    int64_t read_end = 0;
    for (const QueryTile& tile : tiles(context)) {
      const int64_t begin = context.batch.positions[tile.token];
      const int64_t end = begin + tile.num_queries;
      const int64_t window = config_.sliding_window > 0 ? config_.sliding_window : end;
      // Tiles of a sequence read much of the same, once from memory.
      if (before == nullptr || before->sequence != tile.sequence) read_end = 0;
      num_read += end - std::max(read_end, begin + 1 - window);
      before = &tile;
      read_end = end;
      // Position p sees min(p + 1, window) tokens.
      const int64_t full = std::clamp(window, begin, end);
      num_scores += (full * (full + 1) - begin * (begin + 1)) / 2 + (end - full) * window;
    }
    return {.op = "paged_attention",
            .bytes = num_read * context.kv.shape.token_bytes(),
            .operations = 4 * num_scores * config_.num_heads * config_.head_dim,
            .unit = context.kv.shape.dtype == DType::kF32 ? "f32" : "bf16"};
  }

 private:
  static AttentionKernel KernelFor(const Kernels& kernels, DType kv_dtype) {
    if (kv_dtype == DType::kF32) return kernels.attention_f32;
    if (kv_dtype == DType::kI8) return kernels.attention_i8;
    return kv_dtype == DType::kF8E4M3 ? kernels.attention_e4m3 : kernels.attention_bf16;
  }

  const std::vector<QueryTile>& tiles(const StepContext& context) const {
    return context.query_tiles.of(q_.rows);
  }

  AttentionArgs TaskArgs(const StepContext& context, int64_t task, float* scratch) const {
    const QueryTile& tile = tiles(context)[static_cast<size_t>(task / config_.num_kv_heads)];
    const int64_t kv_head = task % config_.num_kv_heads;
    const BatchView& batch = context.batch;
    const int64_t group_size = config_.num_heads / config_.num_kv_heads;
    const int64_t column = kv_head * group_size * config_.head_dim;
    const Matrix& q = context.value(q_.index);
    const Matrix& rope = context.value(config_.rope);
    const Matrix& result = context.value(config_.result);
    constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
    return {
        .q = q.row<float>(tile.row) + column,
        .q_pitch = q.pitch / kFloat,
        .q_norm = config_.q_norm,
        .epsilon = config_.epsilon,
        .rope = rope.row<float>(tile.token),
        .rope_pitch = rope.pitch / kFloat,
        .num_queries = tile.num_queries,
        .group_size = group_size,
        .head_dim = config_.head_dim,
        .first_position = batch.positions[tile.token],
        .sliding_window = config_.sliding_window,
        .scale = config_.scale,
        .value_scale = config_.value_scale,
        .kv = context.kv.head(config_.layer, kv_head),
        .block_bytes = context.kv.shape.head_bytes(),
        .v_offset = context.kv.shape.k_bytes(),
        .block_table = batch.block_tables + tile.sequence * batch.block_table_width,
        .tokens_per_block = context.kv.shape.tokens_per_block,
        .y = result.row<float>(tile.row) + column,
        .y_pitch = result.pitch / kFloat,
        .scratch = scratch,
        .next = nullptr,
    };
  }

  const ValueOperand q_, y_;
  const Config config_;
};

}  // namespace

PreparedStep PreparePagedAttention(const StepReader& step, PlanBuilder& plan) {
  step.Expect(6, 1, {"layer", "scale", "sliding_window", "rope_scale", "epsilon"});
  const bool has_scales = plan.ExpectKvScales(step, 3);
  const ModelConfig& config = plan.config();
  const ValueOperand q = step.input(0, {DType::kF32});
  const ValueOperand y = step.output(0, {DType::kF32, DType::kBF16, DType::kI8});
  if (q.columns != config.num_heads * config.head_dim) {
    step.ExpectColumns("input 0", q.columns,
                       (config.num_heads + 2 * config.num_kv_heads) * config.head_dim);
  }
  step.ExpectColumns("output 0", y.columns, config.num_heads * config.head_dim);
  step.ExpectDifferent(q, y);
  step.ExpectSameRows(q, y);
  PagedAttention::Config prepared{};
  prepared.layer = step.int_attribute("layer", 0, config.num_layers - 1);
  prepared.num_heads = config.num_heads;
  prepared.num_kv_heads = config.num_kv_heads;
  prepared.head_dim = config.head_dim;
  prepared.sliding_window = step.int_attribute("sliding_window", 0, INT32_MAX);
  prepared.q_norm = step.optional_f32_vector(2, config.head_dim);
  prepared.epsilon = step.float_attribute("epsilon", 0, 1);
  prepared.rope = plan.AddRope(step, 1);
  prepared.scale = step.float_attribute("scale", 0, 1e6);
  if (has_scales) prepared.scale *= step.scale(3);
  prepared.value_scale = has_scales ? step.scale(4) : 1.0f;
  prepared.inverse_scale = ReadInverseScale(step, 5, y);
  prepared.result =
      y.dtype == DType::kF32 ? y.index : plan.AddBuffer(y.rows, DType::kF32, y.columns);
  const int64_t num_rows = plan.query_tile_tokens() * (config.num_heads / config.num_kv_heads);
  plan.RequireThreadScratch(
      4 * AttentionScratchFloats(num_rows, config.tokens_per_block, config.head_dim));
  return std::make_unique<PagedAttention>(q, y, prepared);
}

}  // namespace enginery
