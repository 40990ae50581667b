// SPDX-License-Identifier: Apache-2.0
//
// An opened engine: the mapped rank files of one engine directory and what was read from them.
#ifndef ENGINERY_SRC_ENGINE_ENGINE_H_
#define ENGINERY_SRC_ENGINE_ENGINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/program.h"

namespace enginery {

class EngineFile;  // engine/engine_file.h: one mapped and checked rank file

// Text of each token id, in place in the mapped section.
class TokenBytes {
 public:
  TokenBytes() = default;
  TokenBytes(const uint32_t* offsets, const uint8_t* flags, const char* data, uint32_t num_tokens)
      : offsets_(offsets), flags_(flags), data_(data), num_tokens_(num_tokens) {}
  uint32_t num_tokens() const { return num_tokens_; }
  // Bytes that `id` adds to the text; empty for unused ids. `id` must be below num_tokens().
  std::string_view bytes(int32_t id) const {
    return {data_ + offsets_[id], offsets_[id + 1] - offsets_[id]};
  }
  bool is_special(int32_t id) const { return (flags_[id] & 1) != 0; }

 private:
  const uint32_t* offsets_ = nullptr;
  const uint8_t* flags_ = nullptr;
  const char* data_ = nullptr;
  uint32_t num_tokens_ = 0;
};

// Attributes of rank 0's program, checked against their ranges.
struct ModelConfig {
  std::string architecture, dtype, qformat, kv_cache_dtype;
  int64_t vocab_size, hidden_size, num_layers;
  int64_t num_heads, num_kv_heads, head_dim;  // per rank
  int64_t max_batch_size, max_num_tokens, max_seq_len, max_input_len, tokens_per_block;
  int64_t bos_token_id, pad_token_id;
  std::vector<int64_t> eos_token_ids;
};

class Engine {
 public:
  // `path`: an engine directory or one rank file (then tp_size must be 1). Throws Error.
  static std::shared_ptr<const Engine> Open(const std::string& path);
  ~Engine();

  int64_t tp_size() const { return static_cast<int64_t>(ranks_.size()); }
  const EngineFile& rank(int64_t r) const { return *ranks_[static_cast<size_t>(r)]; }
  const Program& program(int64_t rank) const;
  const TokenBytes& token_bytes() const;  // of rank 0
  const ModelConfig& config() const { return config_; }
  const std::string& target() const;
  const std::string& sku() const;
  uint64_t weight_bytes() const;        // of all ranks
  uint64_t kv_bytes_per_token() const;  // of all ranks

 private:
  Engine() = default;
  std::vector<std::unique_ptr<EngineFile>> ranks_;
  ModelConfig config_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_ENGINE_H_
