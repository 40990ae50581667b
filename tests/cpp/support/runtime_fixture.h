// SPDX-License-Identifier: Apache-2.0
//
// A runtime over the fake executor, what its requests should give, and what they gave.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/runtime.h"
#include "engine/engine.h"
#include "sample/sampler.h"
#include "support/fake_executor.h"

namespace enginery::test {

inline constexpr int64_t kVocabSize = 37;
inline constexpr int32_t kEos = 36;

// Token texts: letters, a space, pieces of multi-byte characters, an invalid byte, one empty; the
// last (end of sequence) is special.
class FakeVocabulary {
 public:
  FakeVocabulary() {
    std::vector<std::string> texts;
    for (char c = 'a'; c <= 'x'; ++c) texts.push_back(std::string(1, c));
    for (const char* text : {" ", "ab", "ba", "\xC3", "\xA9", "\xE2\x82", "\xAC", "\xF0\x9F",
                             "\x98\x80", "\xFF", "", "end"}) {
      texts.push_back(text);
    }
    texts.push_back("<eos>");
    offsets_.push_back(0);
    for (const std::string& text : texts) {
      data_ += text;
      offsets_.push_back(static_cast<uint32_t>(data_.size()));
    }
    flags_.assign(texts.size(), 0);
    flags_.back() = 1;
  }
  TokenBytes token_bytes() const {
    return TokenBytes(offsets_.data(), flags_.data(), data_.data(),
                      static_cast<uint32_t>(flags_.size()));
  }

 private:
  std::vector<uint32_t> offsets_;
  std::vector<uint8_t> flags_;
  std::string data_;
};

inline const FakeVocabulary& Vocabulary() {
  static const FakeVocabulary vocabulary;
  return vocabulary;
}

struct FixtureOptions {
  int64_t num_blocks = 64;
  int64_t tokens_per_block = 4;
  int64_t max_batch_size = 8;
  int64_t max_num_tokens = 32;
  int64_t max_chunk_tokens = 0;
  int64_t max_queue_size = 0;
  int64_t max_logit_rows = 0;  // 0: what the runtime chooses
  int32_t policy = ENGINERY_POLICY_GUARANTEED_NO_EVICT;
  bool enable_chunked_context = true;
  bool enable_block_reuse = true;
};

inline RuntimeConfig MakeConfig(const FixtureOptions& options) {
  ModelFacts model;
  model.vocab_size = kVocabSize;
  model.max_batch_size = options.max_batch_size;
  model.max_num_tokens = options.max_num_tokens;
  model.max_seq_len = 200;
  model.max_input_len = 160;
  model.tokens_per_block = options.tokens_per_block;
  model.kv_bytes_per_token = 8;
  model.eos_token_ids = {kEos};
  model.token_bytes = Vocabulary().token_bytes();
  enginery_runtime_options given = {};
  given.kv_cache_bytes = 1;  // the fake executor has the blocks it has
  given.max_queue_size = options.max_queue_size;
  given.policy = options.policy;
  given.enable_chunked_context = options.enable_chunked_context ? 1 : 0;
  given.enable_block_reuse = options.enable_block_reuse ? 1 : 0;
  given.max_chunk_tokens = options.max_chunk_tokens;
  given.iteration_stats_capacity = 10;
  RuntimeConfig config = ReadRuntimeOptions(given, model);
  if (options.max_logit_rows != 0) config.max_logit_rows = options.max_logit_rows;
  return config;
}

// A request with the memory it points to.
struct TestRequest {
  std::vector<int32_t> prompt;
  std::vector<int32_t> stop_token_ids;
  std::vector<std::string> stop_strings;
  enginery_request fields = {};

  TestRequest(std::vector<int32_t> prompt_ids, int64_t max_tokens) : prompt(std::move(prompt_ids)) {
    fields.abi_size = sizeof fields;
    fields.max_tokens = max_tokens;
    fields.num_return_sequences = 1;
    fields.temperature = 0.0f;
    fields.top_p = 1.0f;
    fields.repetition_penalty = 1.0f;
    fields.num_logprobs = -1;
    fields.streaming = 1;
  }
  // Valid while this stands still.
  const enginery_request& view() {
    fields.prompt_token_ids = prompt.data();
    fields.num_prompt_tokens = prompt.size();
    fields.stop_token_ids = stop_token_ids.data();
    fields.num_stop_token_ids = stop_token_ids.size();
    views_.clear();
    for (const std::string& s : stop_strings) views_.push_back({s.data(), s.size()});
    fields.stop_strings = views_.data();
    fields.num_stop_strings = views_.size();
    return fields;
  }

 private:
  std::vector<enginery_string_view> views_;
};

// One sequence, put together from its events.
struct SequenceResult {
  std::vector<int32_t> token_ids;
  std::string text;
  std::vector<float> generation_logits;
  std::vector<float> context_logits;
  std::vector<enginery_logprob> logprobs;
  std::vector<enginery_logprob> prompt_logprobs;
  uint64_t num_with_prompt_logprobs = 0;  // events
  int32_t finish_reason = ENGINERY_FINISH_NONE;
  enginery_status status = ENGINERY_OK;
  std::string error;
  std::string stop_string;
  int32_t stop_token_id = -1;
  uint64_t num_events = 0;
  uint64_t num_reused_tokens = 0;
  uint64_t num_preemptions = 0;
  bool is_last = false;
};
using Results = std::map<std::pair<uint64_t, int32_t>, SequenceResult>;

inline void AddEvent(const enginery_event& e, Results* results) {
  SequenceResult& r = (*results)[{e.request_id, e.sequence_index}];
  r.token_ids.insert(r.token_ids.end(), e.token_ids, e.token_ids + e.num_token_ids);
  r.text.append(e.text, e.text_bytes);
  if (e.generation_logits != nullptr) {
    r.generation_logits.insert(
        r.generation_logits.end(), e.generation_logits,
        e.generation_logits + e.num_token_ids * static_cast<uint64_t>(kVocabSize));
  }
  if (e.context_logits != nullptr) {
    r.context_logits.assign(
        e.context_logits,
        e.context_logits + e.num_context_logits * static_cast<uint64_t>(kVocabSize));
  }
  if (e.logprobs != nullptr) {
    r.logprobs.insert(r.logprobs.end(), e.logprobs,
                      e.logprobs + e.num_token_ids * e.logprobs_per_token);
  }
  if (e.prompt_logprobs_per_token != 0) {
    ++r.num_with_prompt_logprobs;
    r.prompt_logprobs.assign(
        e.prompt_logprobs, e.prompt_logprobs + e.num_prompt_logprobs * e.prompt_logprobs_per_token);
  }
  r.finish_reason = e.finish_reason;
  r.status = e.status;
  r.error = e.error;
  r.stop_string = e.stop_string;
  r.stop_token_id = e.stop_token_id;
  r.num_reused_tokens = e.num_reused_tokens;
  r.num_preemptions = e.num_preemptions;
  r.is_last = e.is_last != 0;
  ++r.num_events;
}

// Takes events until `num_requests` requests have told their last. A hang ends the process: it is a
// failure that no check could report.
inline Results TakeResults(Runtime* runtime, size_t num_requests) {
  Results results;
  for (size_t num_done = 0; num_done < num_requests;) {
    Events events;
    if (!runtime->Poll(std::chrono::milliseconds(60'000), &events)) break;
    if (events.empty()) {
      std::fprintf(stderr, "no event within a minute\n");
      std::abort();
    }
    for (const auto& event : events) {
      AddEvent(event->view, &results);
      num_done += event->view.is_last != 0 ? 1 : 0;
    }
  }
  return results;
}

// Whether `got` has the log probabilities of the request's prompt that the model gives.
inline bool HasPromptLogprobs(const TestRequest& request, const SequenceResult& got) {
  const auto width = static_cast<size_t>(request.fields.num_prompt_logprobs) + 1;
  if (got.prompt_logprobs.size() != (request.prompt.size() - 1) * width) return false;
  std::vector<enginery_logprob> expected(width);
  for (size_t p = 1; p < request.prompt.size(); ++p) {
    const auto prefix = std::span(request.prompt).first(p);
    ComputeLogprobs(HashModel::Logits(prefix, kVocabSize), request.prompt[p],
                    request.fields.num_prompt_logprobs, expected.data());
    for (size_t i = 0; i < width; ++i) {
      const enginery_logprob& found = got.prompt_logprobs[(p - 1) * width + i];
      if (found.token_id != expected[i].token_id || found.logprob != expected[i].logprob) {
        return false;
      }
    }
  }
  return true;
}

// What sequence `index` of a request must give, one token after another from the model alone.
inline SequenceResult Reference(TestRequest* request, int32_t index) {
  const enginery_request& r = request->view();
  SamplingParams params;
  params.temperature = r.temperature;
  params.top_p = r.top_p;
  params.min_p = r.min_p;
  params.top_k = r.top_k;
  params.repetition_penalty = r.repetition_penalty;
  params.presence_penalty = r.presence_penalty;
  params.frequency_penalty = r.frequency_penalty;
  params.seed = r.seed;
  params.min_tokens = r.min_tokens;
  params.end_token_ids = request->stop_token_ids;
  if (r.ignore_eos == 0) params.end_token_ids.push_back(kEos);
  Sampler sampler(kVocabSize);
  TokenCounts counts;
  SampleContext context;
  std::vector<int32_t> token_ids = request->prompt;
  context.num_prompt_tokens = static_cast<int64_t>(token_ids.size());
  context.sequence_index = static_cast<uint32_t>(index);
  context.counts = &counts;
  StopStrings strings(request->stop_strings);
  TextStream stream(&strings, r.include_stop != 0);
  SequenceResult result;
  if (r.max_tokens == 0) result.finish_reason = ENGINERY_FINISH_LENGTH;
  while (result.finish_reason == ENGINERY_FINISH_NONE) {
    const std::vector<float> logits = HashModel::Logits(token_ids, kVocabSize);
    context.token_ids = token_ids;
    const int32_t id = sampler.Sample(params, context, logits).token_id;
    token_ids.push_back(id);
    const bool is_end = r.ignore_eos == 0 && id == kEos;
    const bool is_stop =
        is_end || std::find(request->stop_token_ids.begin(), request->stop_token_ids.end(), id) !=
                      request->stop_token_ids.end();
    int32_t match = StopMatcher::kNone;
    if (!is_stop || r.include_stop != 0) {
      result.token_ids.push_back(id);
      result.generation_logits.insert(result.generation_logits.end(), logits.begin(), logits.end());
      const TokenBytes bytes = Vocabulary().token_bytes();
      if (!bytes.is_special(id)) match = stream.Append(bytes.bytes(id), &result.text);
    }
    if (is_stop) {
      result.finish_reason = is_end ? ENGINERY_FINISH_END_ID : ENGINERY_FINISH_STOP;
      result.stop_token_id = id;
    } else if (match != StopMatcher::kNone) {
      result.finish_reason = ENGINERY_FINISH_STOP;
    } else if (static_cast<int64_t>(token_ids.size()) - context.num_prompt_tokens == r.max_tokens) {
      result.finish_reason = ENGINERY_FINISH_LENGTH;
    }
    if (match != StopMatcher::kNone) {
      result.stop_string = strings.string(static_cast<size_t>(match));
    } else if (result.finish_reason != ENGINERY_FINISH_NONE) {
      stream.Finish(&result.text);
    }
  }
  return result;
}

inline std::vector<int32_t> RandomTokens(std::mt19937_64* random, size_t count) {
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>((*random)() % (kVocabSize - 1));
  return ids;
}

}  // namespace enginery::test
