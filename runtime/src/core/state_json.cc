// SPDX-License-Identifier: Apache-2.0
#include "core/state_json.h"

#include <unordered_map>

#include "base/try_lock.h"
#include "core/step_loop.h"

namespace enginery {
namespace {

const char* PolicyName(int32_t policy) {
  switch (policy) {
    case ENGINERY_POLICY_MAX_UTILIZATION:
      return "MAX_UTILIZATION";
    case ENGINERY_POLICY_STATIC_BATCH:
      return "STATIC_BATCH";
    default:
      return "GUARANTEED_NO_EVICT";
  }
}

// What queue and batch tell alike of a sequence. No tokens: they are the client's.
void DescribeSequence(const OutputSequence& sequence, JsonWriter* json) {
  json->Key("request_id").Uint(sequence.request->id);
  json->Key("client_request_id").String(sequence.request->client_request_id);
  json->Key("sequence_index").Int(sequence.index);
  json->Key("num_sequences").Int(sequence.num_slots);
  json->Key("priority").Int(sequence.priority);
  json->Key("age_ms").Uint((MonotonicNs() - sequence.request->arrival_ns) / 1'000'000);
  json->Key("num_prompt_tokens").Int(sequence.num_prompt_tokens);
  json->Key("num_output_tokens").Int(sequence.num_output_tokens());
  json->Key("max_tokens").Int(sequence.max_tokens);
  json->Key("num_preemptions").Uint(sequence.num_preemptions);
}

void DescribeBlocks(const BlockManager& blocks, uint64_t num_reused_tokens, JsonWriter* json) {
  json->Key("blocks").BeginObject();
  json->Key("tokens_per_block").Int(blocks.tokens_per_block());
  json->Key("num_blocks").Int(blocks.num_blocks());
  json->Key("num_used").Int(blocks.num_blocks() - blocks.num_free_blocks());
  json->Key("num_free").Int(blocks.num_free_blocks());
  json->Key("num_cached").Int(blocks.num_cached_blocks());
  json->Key("num_reused")
      .Uint(num_reused_tokens / static_cast<uint64_t>(blocks.tokens_per_block()));
  json->EndObject();
}

}  // namespace

void DescribeConfig(const RuntimeConfig& config, JsonWriter* json) {
  json->Key("config").BeginObject();
  json->Key("kv_cache_bytes").Uint(config.kv_cache_bytes);
  json->Key("max_batch_size").Int(config.model.max_batch_size);
  json->Key("max_num_tokens").Int(config.model.max_num_tokens);
  json->Key("max_chunk_tokens").Int(config.max_chunk_tokens);
  json->Key("max_seq_len").Int(config.model.max_seq_len);
  json->Key("max_input_len").Int(config.model.max_input_len);
  json->Key("max_queue_size").Int(config.max_queue_size);
  json->Key("policy").String(PolicyName(config.policy));
  json->Key("enable_chunked_context").Bool(config.enable_chunked_context);
  json->Key("enable_block_reuse").Bool(config.enable_block_reuse);
  json->EndObject();
}

void DescribeStats(const enginery_stats& stats, JsonWriter* json) {
  json->Key("statistics").BeginObject();
  json->Key("num_iterations").Uint(stats.num_iterations);
  json->Key("num_requests").Uint(stats.num_requests);
  json->Key("num_finished").Uint(stats.num_finished);
  json->Key("num_running").Uint(stats.num_running);
  json->Key("num_waiting").Uint(stats.num_waiting);
  json->Key("num_preemptions").Uint(stats.num_preemptions);
  json->Key("num_prompt_tokens").Uint(stats.num_prompt_tokens);
  json->Key("num_reused_tokens").Uint(stats.num_reused_tokens);
  json->Key("num_output_tokens").Uint(stats.num_output_tokens);
  json->Key("step_ns").Uint(stats.step_ns);
  json->Key("scheduler_ns").Uint(stats.scheduler_ns);
  json->EndObject();
}

void DescribeWaiting(const OutputSequence& sequence, JsonWriter* json) {
  json->BeginObject();
  DescribeSequence(sequence, json);
  json->EndObject();
}

void DescribeRunning(const OutputSequence& sequence, int64_t num_scheduled_tokens,
                     std::span<const int32_t> block_table, JsonWriter* json) {
  const bool is_decode = sequence.num_output_tokens() > 0 && sequence.num_pending_tokens() == 1;
  json->BeginObject();
  DescribeSequence(sequence, json);
  json->Key("phase").String(is_decode ? "decode" : "prefill");
  json->Key("num_computed_tokens").Int(sequence.num_computed_tokens);
  json->Key("num_scheduled_tokens").Int(num_scheduled_tokens);
  json->Key("num_reused_tokens").Int(sequence.num_reused_tokens);
  json->Key("block_table").BeginArray();
  for (const int32_t block : block_table) json->Int(block);
  json->EndArray();
  json->EndObject();
}

void StepLoop::Describe(JsonWriter* json) const {
  const std::unique_lock lock = TryLockFor(mutex_, kLockPatience);
  if (!lock.owns_lock()) {
    json->Key("stage").String("scheduler or sampler");
    json->Key("step").Null().Key("batch").Null().Key("queue").Null().Key("blocks").Null();
    return;
  }
  json->Key("stage").String(is_executing_ ? "executor" : "between steps");
  const ScheduledStep& step = scheduler_.step();
  json->Key("step").BeginObject();
  json->Key("iteration").Uint(stats_.num_iterations);
  json->Key("num_tokens").Int(step.num_tokens);
  json->Key("num_decode_tokens").Int(step.num_decode_tokens);
  json->Key("num_sequences").Uint(step.sequences.size());
  json->EndObject();
  std::unordered_map<const Sequence*, int64_t> num_scheduled;
  for (const ScheduledSequence& entry : step.sequences) {
    num_scheduled[entry.sequence] = entry.num_tokens;
  }
  json->Key("batch").BeginArray();
  for (const Sequence* sequence : scheduler_.running()) {
    DescribeRunning(*static_cast<const OutputSequence*>(sequence), num_scheduled[sequence],
                    blocks_.block_table(sequence->blocks), json);
  }
  json->EndArray();
  json->Key("queue").BeginArray();
  for (const Sequence* sequence : scheduler_.waiting()) {
    DescribeWaiting(*static_cast<const OutputSequence*>(sequence), json);
  }
  json->EndArray();
  DescribeBlocks(blocks_, stats_.num_reused_tokens, json);
}

}  // namespace enginery
