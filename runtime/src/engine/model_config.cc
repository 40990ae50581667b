// SPDX-License-Identifier: Apache-2.0
#include "engine/model_config.h"

#include <algorithm>
#include <initializer_list>

#include "engine/format.h"
#include "engine/invalid.h"

namespace enginery {
namespace {

constexpr std::string_view kOwner = "program";
// Generous, and small enough that their products below stay far from 2^63.
constexpr int64_t kMaxCount = 1 << 16;      // layers, heads, head_dim
constexpr int64_t kMaxTokens = 0x7fffffff;  // positions and packed tokens are i32
// The cpu executor pads a head's row of V to a multiple of these (PaddedHeadDim in kernels.h).
constexpr uint64_t kCpuValueColumns = 16;

std::string GetOneOf(const Attributes& attributes, std::string_view name,
                     std::initializer_list<std::string_view> accepted) {
  const std::string& value = GetString(attributes, name, kOwner);
  if (std::ranges::find(accepted, value) != accepted.end()) return value;
  std::string list;
  for (const std::string_view one : accepted) list += StrCat(list.empty() ? "" : ", ", one);
  ThrowInvalid(ENGINERY_INVALID_PROGRAM, StrCat(kOwner, ": attribute ", Quoted(name)),
               Quoted(value), list);
}

std::vector<int64_t> GetTokenIds(const Attributes& attributes, std::string_view name,
                                 int64_t vocab_size) {
  const std::string field = StrCat(kOwner, ": attribute ", Quoted(name));
  const auto found = attributes.find(name);
  if (found == attributes.end()) throw Error(ENGINERY_INVALID_PROGRAM, field + " is missing");
  const auto* ids = std::get_if<std::vector<int64_t>>(&found->second);
  if (ids == nullptr) {
    throw Error(ENGINERY_INVALID_PROGRAM, field + " has another type; accepted: i64 array");
  }
  for (const int64_t id : *ids) {
    if (id < 0 || id >= vocab_size) {
      ThrowInvalid(ENGINERY_INVALID_PROGRAM, StrCat(field, ": an element"), id,
                   StrCat("0..", vocab_size - 1));
    }
  }
  return *ids;
}

}  // namespace

ModelConfig ReadModelConfig(const Attributes& attributes) {
  const auto get_int = [&](std::string_view name, int64_t low, int64_t high) {
    return GetInt(attributes, name, low, high, kOwner);
  };
  ModelConfig config;
  config.architecture = GetString(attributes, "architecture", kOwner);
  config.dtype = GetOneOf(attributes, "dtype", {"float32", "bfloat16", "float16"});
  config.qformat = GetOneOf(attributes, "qformat",
                            {"none", "int8_wo", "int8_dynamic", "w4a8_dynamic", "int8_sq",
                             "int4_wo", "int4_awq", "w4a8_awq", "fp8"});
  config.kv_cache_dtype =
      GetOneOf(attributes, "kv_cache_dtype", {"float32", "bfloat16", "float16", "fp8", "int8"});
  config.vocab_size = get_int("vocab_size", 1, kMaxColumns);
  config.hidden_size = get_int("hidden_size", 1, kMaxColumns);
  config.num_layers = get_int("num_layers", 1, kMaxCount);
  config.num_heads = get_int("num_heads", 1, kMaxCount);
  config.num_kv_heads = get_int("num_kv_heads", 1, config.num_heads);
  if (config.num_heads % config.num_kv_heads != 0) {
    ThrowInvalid(ENGINERY_INVALID_PROGRAM, "program: attribute \"num_kv_heads\"",
                 config.num_kv_heads, StrCat("a divisor of num_heads, ", config.num_heads));
  }
  config.head_dim = get_int("head_dim", 1, kMaxCount);
  config.max_batch_size = get_int("max_batch_size", 1, kMaxRecords);
  config.max_num_tokens = get_int("max_num_tokens", 1, kMaxTokens);
  config.max_seq_len = get_int("max_seq_len", 1, kMaxTokens);
  config.max_input_len = get_int("max_input_len", 1, config.max_seq_len);
  config.tokens_per_block = get_int("tokens_per_block", 1, kMaxRecords);
  config.bos_token_id = get_int("bos_token_id", -1, config.vocab_size - 1);
  config.pad_token_id = get_int("pad_token_id", -1, config.vocab_size - 1);
  config.eos_token_ids = GetTokenIds(attributes, "eos_token_ids", config.vocab_size);
  return config;
}

uint64_t KvBytesPerToken(const ModelConfig& config, std::string_view target) {
  const std::string& dtype = config.kv_cache_dtype;
  const uint64_t element_bytes = dtype == "float32" ? 4 : dtype == "fp8" || dtype == "int8" ? 1 : 2;
  const auto k_columns = static_cast<uint64_t>(config.head_dim);
  const uint64_t v_columns =
      target == "cpu" ? (k_columns + kCpuValueColumns - 1) / kCpuValueColumns * kCpuValueColumns
                      : k_columns;
  return element_bytes * static_cast<uint64_t>(config.num_layers) *
         static_cast<uint64_t>(config.num_kv_heads) * (k_columns + v_columns);
}

}  // namespace enginery
