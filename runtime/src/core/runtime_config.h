// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_CORE_RUNTIME_CONFIG_H_
#define ENGINERY_SRC_CORE_RUNTIME_CONFIG_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "enginery/enginery.h"

namespace enginery {

// What the serving loop needs to know of a model.
struct ModelFacts {
  int64_t vocab_size = 0;
  int64_t max_batch_size = 0;
  int64_t max_num_tokens = 0;
  int64_t max_seq_len = 0;
  int64_t max_input_len = 0;
  int64_t tokens_per_block = 0;
  uint64_t kv_bytes_per_token = 0;
  std::vector<int32_t> eos_token_ids;
  TokenBytes token_bytes;  // must outlive the runtime
  // What the engine is and what runs it, for the watchdog's file: names and their values.
  std::vector<std::pair<std::string, std::string>> labels;
};

// enginery_runtime_options, checked, with every default filled in.
struct RuntimeConfig {
  ModelFacts model;  // with the limits in force
  uint64_t kv_cache_bytes = 0;
  int64_t max_queue_size = 0;  // 0: no bound
  int64_t max_chunk_tokens = 0;
  int64_t max_logit_rows = 0;
  int64_t iteration_stats_capacity = 0;
  int64_t watchdog_timeout_ms = 0;  // 0: no watchdog
  std::string watchdog_dir;         // "" without one
  int32_t policy = ENGINERY_POLICY_GUARANTEED_NO_EVICT;
  bool enable_chunked_context = true;
  bool enable_block_reuse = true;

  // Sequences in flight at most: a decode of each must fit a step.
  int64_t max_slots() const { return std::min(model.max_batch_size, model.max_num_tokens); }
};

// Throws Error naming the first option that is out of range.
RuntimeConfig ReadRuntimeOptions(const enginery_runtime_options& options, const ModelFacts& model);

// Bytes that can be allocated without swapping: MemAvailable of /proc/meminfo, or what a cgroup
// leaves when that is less; 0 when neither can be read.
uint64_t AvailableMemoryBytes();

}  // namespace enginery

#endif  // ENGINERY_SRC_CORE_RUNTIME_CONFIG_H_
