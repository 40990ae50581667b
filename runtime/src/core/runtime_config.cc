// SPDX-License-Identifier: Apache-2.0
#include "core/runtime_config.h"

#include <algorithm>

#include "base/error.h"
#include "base/str_cat.h"
#include "core/watchdog.h"

namespace enginery {
namespace {

// Rows beyond one per sequence that a step may want for return_context_logits.
constexpr int64_t kExtraLogitRows = 64;
constexpr int64_t kMaxTimeoutMs = INT64_MAX / 1'000'000;  // it fits into 64 bits of nanoseconds

void CheckRange(const char* field, int64_t value, int64_t low, int64_t high, const char* fix) {
  if (value >= low && value <= high) return;
  throw Error(ENGINERY_INVALID_ARGUMENT, StrCat("runtime option ", field, " is ", value,
                                                "; accepted: ", low, "..", high, "; ", fix));
}

void CheckFlag(const char* field, int64_t value) { CheckRange(field, value, 0, 1, "set 0 or 1"); }

int64_t OrDefault(int64_t value, int64_t fallback) { return value == 0 ? fallback : value; }

uint64_t DefaultKvCacheBytes(const ModelFacts& model) {
  const auto num_blocks = static_cast<uint64_t>((model.max_seq_len + model.tokens_per_block - 1) /
                                                model.tokens_per_block);
  const uint64_t block_bytes =
      static_cast<uint64_t>(model.tokens_per_block) * model.kv_bytes_per_token;
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(num_blocks * static_cast<uint64_t>(model.max_batch_size), block_bytes,
                             &bytes)) {
    bytes = UINT64_MAX;
  }
  const uint64_t available = AvailableMemoryBytes();
  if (available == 0) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                "runtime option kv_cache_bytes is 0, which takes at most half of the free memory, "
                "but /proc/meminfo cannot be read; set kv_cache_bytes");
  }
  return std::min(bytes, available / 2);
}

}  // namespace

RuntimeConfig ReadRuntimeOptions(const enginery_runtime_options& options, const ModelFacts& model) {
  constexpr const char* kRebuild =
      "a larger value needs an engine built with it; 0 takes its limit";
  RuntimeConfig config;
  config.model = model;
  CheckRange("max_batch_size", options.max_batch_size, 0, model.max_batch_size, kRebuild);
  CheckRange("max_num_tokens", options.max_num_tokens, 0, model.max_num_tokens, kRebuild);
  config.model.max_batch_size = OrDefault(options.max_batch_size, model.max_batch_size);
  config.model.max_num_tokens = OrDefault(options.max_num_tokens, model.max_num_tokens);
  CheckRange("max_queue_size", options.max_queue_size, 0, INT64_MAX, "0 sets no bound");
  CheckRange("policy", options.policy, ENGINERY_POLICY_GUARANTEED_NO_EVICT,
             ENGINERY_POLICY_STATIC_BATCH, "use an ENGINERY_POLICY_ constant");
  CheckFlag("enable_chunked_context", options.enable_chunked_context);
  CheckFlag("enable_block_reuse", options.enable_block_reuse);
  CheckFlag("pin_threads", options.pin_threads);
  CheckRange("max_chunk_tokens", options.max_chunk_tokens, 0, config.model.max_num_tokens,
             "0 takes max_num_tokens");
  if (options.enable_chunked_context == 0 && options.max_chunk_tokens != 0) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                StrCat("runtime option max_chunk_tokens is ", options.max_chunk_tokens,
                       " with enable_chunked_context 0, which computes prompts whole; set it to 0 "
                       "or enable_chunked_context to 1"));
  }
  CheckRange("iteration_stats_capacity", options.iteration_stats_capacity, 0, 10'000'000,
             "the default is 1000");
  CheckRange("watchdog_timeout_ms", options.watchdog_timeout_ms, 0, kMaxTimeoutMs,
             "0 turns it off");
  CheckRange("kv_cache_bytes", options.kv_cache_bytes, 0, INT64_MAX, "0 chooses a size");
  config.max_queue_size = options.max_queue_size;
  config.policy = options.policy;
  config.enable_chunked_context = options.enable_chunked_context != 0;
  config.enable_block_reuse = options.enable_block_reuse != 0;
  config.max_chunk_tokens = OrDefault(options.max_chunk_tokens, config.model.max_num_tokens);
  config.max_logit_rows =
      std::min(config.max_slots() + kExtraLogitRows, config.model.max_num_tokens);
  config.iteration_stats_capacity = options.iteration_stats_capacity;
  config.watchdog_timeout_ms = options.watchdog_timeout_ms;
  if (config.watchdog_timeout_ms > 0) {
    config.watchdog_dir =
        CheckedWatchdogDirectory(options.watchdog_dir == nullptr ? "" : options.watchdog_dir);
  }
  config.kv_cache_bytes = options.kv_cache_bytes > 0 ? static_cast<uint64_t>(options.kv_cache_bytes)
                                                     : DefaultKvCacheBytes(config.model);
  return config;
}

}  // namespace enginery
