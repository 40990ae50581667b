// SPDX-License-Identifier: Apache-2.0
#include "core/request_reader.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/str_cat.h"
#include "base/utf8.h"

namespace enginery {
namespace {

// Bounds on what a request may make every step look through.
constexpr uint64_t kMaxStopStrings = 256;
constexpr uint64_t kMaxStopStringBytes = 4096;
constexpr uint64_t kMaxBadSequences = 4096;
constexpr int32_t kMaxLogprobs = 20;
constexpr uint64_t kMaxClientIdBytes = 256;

template <class Value>
[[noreturn]] void Refuse(std::string_view field, const Value& value, std::string_view accepted,
                         std::string_view fix) {
  throw Error(ENGINERY_INVALID_ARGUMENT,
              StrCat("request field ", field, " is ", value, "; accepted: ", accepted, "; ", fix));
}

void CheckInt(std::string_view field, int64_t value, int64_t low, int64_t high,
              std::string_view fix) {
  if (value < low || value > high) Refuse(field, value, StrCat(low, "..", high), fix);
}

void CheckFlag(std::string_view field, int32_t value) {
  CheckInt(field, value, 0, 1, "set 0 or 1");
}

void CheckArray(std::string_view field, const void* data, uint64_t count, uint64_t max_count) {
  if (count > max_count) {
    Refuse(StrCat("num_", field), count, StrCat("at most ", max_count), "pass fewer");
  }
  if (data == nullptr && count > 0) {
    Refuse(field, "NULL", StrCat("an array of ", count), StrCat("or set num_", field, " to 0"));
  }
}

void CheckTokenIds(std::string_view field, const int32_t* ids, uint64_t count, int64_t vocab_size) {
  for (uint64_t i = 0; i < count; ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    Refuse(StrCat(field, "[", i, "]"), ids[i], StrCat("0..", vocab_size - 1),
           "token ids are below the vocabulary size of the engine");
  }
}

void CheckLengths(const enginery_request& r, const RuntimeConfig& config) {
  const ModelFacts& model = config.model;
  if (r.num_prompt_tokens == 0) {
    Refuse("num_prompt_tokens", 0, StrCat("1..", model.max_input_len), "a prompt is needed");
  }
  if (r.num_prompt_tokens > static_cast<uint64_t>(model.max_input_len)) {
    Refuse("num_prompt_tokens", r.num_prompt_tokens, StrCat("1..", model.max_input_len),
           "shorten the prompt or build the engine with a larger max_input_len");
  }
  if (r.prompt_token_ids == nullptr) {
    Refuse("prompt_token_ids", "NULL", StrCat("an array of ", r.num_prompt_tokens), "set it");
  }
  const auto num_prompt_tokens = static_cast<int64_t>(r.num_prompt_tokens);
  if (!config.enable_chunked_context && num_prompt_tokens > model.max_num_tokens) {
    Refuse("num_prompt_tokens", num_prompt_tokens, StrCat("1..", model.max_num_tokens),
           "with enable_chunked_context 0 a prompt must fit max_num_tokens; shorten it or set "
           "enable_chunked_context to 1");
  }
  CheckTokenIds("prompt_token_ids", r.prompt_token_ids, r.num_prompt_tokens, model.vocab_size);
  if (num_prompt_tokens >= model.max_seq_len) {
    Refuse("num_prompt_tokens", num_prompt_tokens, StrCat("1..", model.max_seq_len - 1),
           "prompt and output must fit max_seq_len; shorten the prompt or build the engine with a "
           "larger max_seq_len");
  }
  CheckInt(
      "max_tokens", r.max_tokens, 0, model.max_seq_len - num_prompt_tokens,
      StrCat("the prompt's ", num_prompt_tokens, " tokens and max_tokens must fit max_seq_len ",
             model.max_seq_len, "; ask for fewer or build the engine with a larger max_seq_len"));
  CheckInt("min_tokens", r.min_tokens, 0, r.max_tokens, "it may not exceed max_tokens");
  CheckInt("num_return_sequences", r.num_return_sequences, 1, config.max_slots(),
           "they run together, so max_batch_size and max_num_tokens bound them");
}

void CheckSampling(const enginery_request& r, int64_t vocab_size) {
  if (!std::isfinite(r.temperature) || r.temperature < 0.0f) {
    Refuse("temperature", r.temperature, "0 (greedy) or a finite number above 0", "set 1 for none");
  }
  if (!(r.top_p > 0.0f && r.top_p <= 1.0f)) {
    Refuse("top_p", r.top_p, "above 0, at most 1", "set 1 for none");
  }
  if (!(r.min_p >= 0.0f && r.min_p <= 1.0f)) Refuse("min_p", r.min_p, "0..1", "set 0 for none");
  if (r.top_k < 0) Refuse("top_k", r.top_k, "0 (all tokens) or at least 1", "set 0 for none");
  if (!(std::isfinite(r.repetition_penalty) && r.repetition_penalty > 0.0f)) {
    Refuse("repetition_penalty", r.repetition_penalty, "finite and above 0", "set 1 for none");
  }
  if (!std::isfinite(r.presence_penalty)) {
    Refuse("presence_penalty", r.presence_penalty, "a finite number", "set 0 for none");
  }
  if (!std::isfinite(r.frequency_penalty)) {
    Refuse("frequency_penalty", r.frequency_penalty, "a finite number", "set 0 for none");
  }
  CheckInt("num_logprobs", r.num_logprobs, -1, std::min<int64_t>(kMaxLogprobs, vocab_size),
           "-1 for none, 0 for the token drawn alone");
}

void CheckStops(const enginery_request& r, int64_t vocab_size) {
  CheckArray("stop_token_ids", r.stop_token_ids, r.num_stop_token_ids,
             static_cast<uint64_t>(vocab_size));
  CheckTokenIds("stop_token_ids", r.stop_token_ids, r.num_stop_token_ids, vocab_size);
  CheckArray("stop_strings", r.stop_strings, r.num_stop_strings, kMaxStopStrings);
  for (uint64_t i = 0; i < r.num_stop_strings; ++i) {
    const enginery_string_view& s = r.stop_strings[i];
    const std::string field = StrCat("stop_strings[", i, "]");
    if (s.data == nullptr || s.bytes == 0 || s.bytes > kMaxStopStringBytes) {
      Refuse(StrCat(field, ".bytes"), s.data == nullptr ? 0 : s.bytes,
             StrCat("1..", kMaxStopStringBytes), "leave empty strings out");
    }
    if (!IsUtf8({s.data, s.bytes})) {
      Refuse(field, "not UTF-8", "UTF-8 text", "stop strings are matched on the decoded text");
    }
  }
}

void CheckBansAndBias(const enginery_request& r, int64_t vocab_size) {
  CheckArray("bad_token_sequences", r.bad_token_sequences, r.num_bad_token_sequences,
             kMaxBadSequences);
  for (uint64_t i = 0; i < r.num_bad_token_sequences; ++i) {
    const enginery_token_sequence& bad = r.bad_token_sequences[i];
    const std::string field = StrCat("bad_token_sequences[", i, "]");
    if (bad.token_ids == nullptr || bad.num_tokens == 0 || bad.num_tokens > kMaxBadSequences) {
      Refuse(StrCat(field, ".num_tokens"), bad.token_ids == nullptr ? 0 : bad.num_tokens,
             StrCat("1..", kMaxBadSequences), "leave empty sequences out");
    }
    CheckTokenIds(StrCat(field, ".token_ids"), bad.token_ids, bad.num_tokens, vocab_size);
  }
  CheckArray("logit_bias", r.logit_bias, r.num_logit_bias, static_cast<uint64_t>(vocab_size));
  for (uint64_t i = 0; i < r.num_logit_bias; ++i) {
    const std::string field = StrCat("logit_bias[", i, "]");
    CheckInt(StrCat(field, ".token_id"), r.logit_bias[i].token_id, 0, vocab_size - 1,
             "token ids are below the vocabulary size of the engine");
    if (!(r.logit_bias[i].bias < std::numeric_limits<float>::infinity())) {
      Refuse(StrCat(field, ".bias"), r.logit_bias[i].bias, "finite or -infinity",
             "-infinity bans a token; to force one, ban or lower the others");
    }
  }
}

void CheckPromptRows(std::string_view field, const enginery_request& r,
                     const RuntimeConfig& config) {
  // In a step that computes it whole every other sequence may want a row too.
  const int64_t max_whole = config.max_logit_rows == config.model.max_num_tokens
                                ? config.model.max_num_tokens
                                : config.max_logit_rows - config.max_slots() + 1;
  if (!config.enable_chunked_context && r.num_prompt_tokens > static_cast<uint64_t>(max_whole)) {
    Refuse(
        field, 1,
        StrCat("0 for a prompt of more than ", max_whole, " tokens with enable_chunked_context 0"),
        "set enable_chunked_context to 1 or shorten the prompt");
  }
}

void CheckPromptLogprobs(const enginery_request& r, const RuntimeConfig& config) {
  CheckFlag("return_prompt_logprobs", r.return_prompt_logprobs);
  if (r.return_prompt_logprobs == 0) {
    CheckInt("num_prompt_logprobs", r.num_prompt_logprobs, 0, 0,
             "set return_prompt_logprobs to 1 to have them");
    return;
  }
  CheckInt("num_prompt_logprobs", r.num_prompt_logprobs, 0,
           std::min<int64_t>(kMaxLogprobs, config.model.vocab_size),
           "0 for the prompt's tokens alone");
  CheckPromptRows("return_prompt_logprobs", r, config);
}

void CheckOutput(const enginery_request& r, const RuntimeConfig& config) {
  CheckFlag("ignore_eos", r.ignore_eos);
  CheckInt("include_stop", r.include_stop, 0, 2, "0 for none");
  CheckFlag("show_special_tokens", r.show_special_tokens);
  CheckFlag("streaming", r.streaming);
  CheckFlag("return_context_logits", r.return_context_logits);
  CheckFlag("return_generation_logits", r.return_generation_logits);
  CheckInt("timeout_ms", r.timeout_ms, 0, INT64_MAX, "0 for none");
  CheckPromptLogprobs(r, config);
  if (r.return_context_logits == 0) return;
  CheckPromptRows("return_context_logits", r, config);
  const uint64_t bytes =
      r.num_prompt_tokens * sizeof(float) * static_cast<uint64_t>(config.model.vocab_size);
  if (bytes > AvailableMemoryBytes() / 2) {
    Refuse("return_context_logits", 1,
           StrCat("0 for this prompt: its logits take ", bytes,
                  " bytes, more than half of the free memory"),
           "shorten the prompt");
  }
}

SamplingParams ReadSampling(const enginery_request& r, const ModelFacts& model) {
  SamplingParams sampling;
  sampling.temperature = r.temperature;
  sampling.top_p = r.top_p;
  sampling.min_p = r.min_p;
  sampling.top_k = r.top_k;
  sampling.repetition_penalty = r.repetition_penalty;
  sampling.presence_penalty = r.presence_penalty;
  sampling.frequency_penalty = r.frequency_penalty;
  sampling.num_logprobs = r.num_logprobs;
  sampling.seed = r.seed;
  sampling.min_tokens = r.min_tokens;
  sampling.end_token_ids.assign(r.stop_token_ids, r.stop_token_ids + r.num_stop_token_ids);
  if (r.ignore_eos == 0) {
    sampling.end_token_ids.insert(sampling.end_token_ids.end(), model.eos_token_ids.begin(),
                                  model.eos_token_ids.end());
  }
  for (uint64_t i = 0; i < r.num_bad_token_sequences; ++i) {
    const enginery_token_sequence& bad = r.bad_token_sequences[i];
    sampling.bad_token_sequences.emplace_back(bad.token_ids, bad.token_ids + bad.num_tokens);
  }
  sampling.logit_bias.assign(r.logit_bias, r.logit_bias + r.num_logit_bias);
  return sampling;
}

std::string ReadClientId(const enginery_string_view& id) {
  constexpr std::string_view kField = "client_request_id";
  const uint64_t num_bytes = id.data == nullptr ? 0 : id.bytes;
  if (num_bytes > kMaxClientIdBytes) {
    Refuse(StrCat(kField, ".bytes"), num_bytes, StrCat("0..", kMaxClientIdBytes), "shorten it");
  }
  const std::string_view text(id.data, num_bytes);
  if (!IsUtf8(text)) Refuse(kField, "not UTF-8", "UTF-8", "encode it as UTF-8");
  return std::string(text);
}

}  // namespace

std::unique_ptr<Request> ReadRequest(const enginery_request& r, const RuntimeConfig& config) {
  CheckLengths(r, config);
  CheckSampling(r, config.model.vocab_size);
  CheckStops(r, config.model.vocab_size);
  CheckBansAndBias(r, config.model.vocab_size);
  CheckOutput(r, config);

  auto request = std::make_unique<Request>();
  request->client_request_id = ReadClientId(r.client_request_id);
  request->sampling = ReadSampling(r, config.model);
  request->stop_token_ids.assign(r.stop_token_ids, r.stop_token_ids + r.num_stop_token_ids);
  std::vector<std::string> strings;
  for (uint64_t i = 0; i < r.num_stop_strings; ++i) {
    strings.emplace_back(r.stop_strings[i].data, r.stop_strings[i].bytes);
  }
  request->stop_strings = StopStrings(std::move(strings));
  request->ignore_eos = r.ignore_eos != 0;
  request->keeps_stop_token = r.include_stop != 0;
  request->shows_stop = r.include_stop == 1;
  request->show_special_tokens = r.show_special_tokens != 0;
  request->is_streaming = r.streaming != 0;
  request->wants_context_logits = r.return_context_logits != 0;
  request->wants_generation_logits = r.return_generation_logits != 0;
  request->is_scored_alone = r.max_tokens == 0;
  const auto num_prompt_tokens = static_cast<int64_t>(r.num_prompt_tokens);
  if (r.return_prompt_logprobs != 0) {
    request->owes_prompt_logprobs = true;
    request->num_prompt_logprobs = r.num_prompt_logprobs;
    request->num_prompt_rows = num_prompt_tokens - 1;  // those of the last are of no prompt token
  }
  if (request->wants_context_logits) request->num_prompt_rows = num_prompt_tokens;
  request->num_unfinished = static_cast<size_t>(r.num_return_sequences);
  if (request->wants_context_logits) {
    request->context_logits.reserve(r.num_prompt_tokens *
                                    static_cast<size_t>(config.model.vocab_size));
  }
  for (int32_t i = 0; i < r.num_return_sequences; ++i) {
    auto sequence = std::make_unique<OutputSequence>(request.get(), &request->stop_strings,
                                                     request->shows_stop);
    sequence->num_prompt_tokens = num_prompt_tokens;
    // What is only computed takes as many blocks as with one token: its last one's are none.
    sequence->max_tokens = std::max<int64_t>(1, r.max_tokens);
    sequence->priority = r.priority;
    sequence->index = i;
    sequence->wants_context_logits = request->num_prompt_rows > 0;
    enginery_sample_record& record = sequence->sampling;
    record.temperature = r.temperature;
    record.top_p = r.top_p;
    record.min_p = r.min_p;
    record.top_k = r.top_k;
    record.seed = r.seed;
    request->sequences.push_back(std::move(sequence));
  }
  OutputSequence& first = *request->sequences.front();
  first.num_slots = r.num_return_sequences;
  first.token_ids.assign(r.prompt_token_ids, r.prompt_token_ids + r.num_prompt_tokens);
  return request;
}

}  // namespace enginery
