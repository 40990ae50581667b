// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_ENGINE_MODEL_CONFIG_H_
#define ENGINERY_SRC_ENGINE_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/program.h"

namespace enginery {

// Attributes of a program, checked against their ranges.
struct ModelConfig {
  std::string architecture, dtype, qformat, kv_cache_dtype;
  int64_t vocab_size, hidden_size, num_layers;
  int64_t num_heads, num_kv_heads, head_dim;  // per rank
  int64_t max_batch_size, max_num_tokens, max_seq_len, max_input_len, tokens_per_block;
  int64_t bos_token_id, pad_token_id;  // -1: none
  std::vector<int64_t> eos_token_ids;

  bool operator==(const ModelConfig&) const = default;
};

// Throws Error(ENGINERY_INVALID_PROGRAM) naming the first attribute that is missing, of another
// type or out of range.
ModelConfig ReadModelConfig(const Attributes& attributes);

// Bytes that one token's keys and values take in one rank's KV cache, over all layers, with the
// padding that the executor of `target` adds.
uint64_t KvBytesPerToken(const ModelConfig& config, std::string_view target);

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_MODEL_CONFIG_H_
