// SPDX-License-Identifier: Apache-2.0
//
// From events to the outputs of `tensorrt_llm`: whole characters, no end token, and shapes as
// TensorRT-LLM has them.
#include <map>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "native/trtllm/character_gate.h"
#include "native/trtllm/row_writer.h"
#include "native/trtllm/tensors.h"
#include "support/output_tensors.h"

namespace enginery::triton::trtllm {
namespace {

// The text of five tokens: "a", the two bytes of an e with an acute accent, "<end>", which is
// special, and the first byte of a character of three.
constexpr uint32_t kOffsets[] = {0, 1, 2, 3, 8, 9};
constexpr uint8_t kFlags[] = {0, 0, 0, 1, 0};
constexpr int32_t kA = 0;
constexpr int32_t kFirst = 1;
constexpr int32_t kSecond = 2;
constexpr int32_t kEnd = 3;
constexpr int32_t kLead = 4;
constexpr int64_t kVocabSize = 5;
const EngineFacts kEngine{.vocab_size = kVocabSize,
                          .tokens_per_block = 16,
                          .eos_token_ids = {kEnd},
                          .token_bytes = TokenBytes(kOffsets, kFlags, "a\xC3\xA9<end>\xE2", 5)};

using Ids = std::vector<int32_t>;
using Shape = std::vector<int64_t>;

RowOptions Streaming() {
  RowOptions options;
  options.is_streaming = true;
  options.end_token_ids = kEngine.eos_token_ids;
  return options;
}

struct Happening {
  Ids token_ids;
  int32_t finish_reason = ENGINERY_FINISH_NONE;
  int32_t stop_token_id = -1;
  int32_t sequence_index = 0;
  bool has_context_logits = false;
};

// Of a prompt of 32 tokens, with a log probability of -1, -2, ... for each token, and logits that
// are the token's id.
Delta MakeDelta(const Happening& happening) {
  enginery_event event{};
  event.error = "";
  event.text = "";
  event.sequence_index = happening.sequence_index;
  event.finish_reason = happening.finish_reason;
  event.stop_token_id = happening.stop_token_id;
  event.token_ids = happening.token_ids.data();
  event.num_token_ids = happening.token_ids.size();
  std::vector<enginery_logprob> logprobs;
  std::vector<float> logits;
  for (const int32_t id : happening.token_ids) {
    logprobs.push_back({id, -1.0f - static_cast<float>(logprobs.size())});
    logits.insert(logits.end(), kVocabSize, static_cast<float>(id));
  }
  event.logprobs = logprobs.data();
  event.logprobs_per_token = 1;
  event.generation_logits = logits.data();
  const std::vector<float> context(2 * kVocabSize, 0.5f);
  if (happening.has_context_logits) event.context_logits = context.data();
  event.num_context_logits = 2;
  event.num_prompt_tokens = 32;
  event.num_output_tokens = 2;
  event.num_reused_tokens = 17;
  event.arrival_ns = 1;
  event.last_token_ns = 4;
  return Delta(event, kVocabSize);
}

using Response = std::map<std::string, OutputTensor>;

Response Write(RowWriter& writer, const Happening& happening) {
  return ByName(writer.Write(MakeDelta(happening)));
}

Ids OutputIds(const Response& response) {
  const OutputTensor& tensor = response.at("output_ids");
  const Ids ids = Values<int32_t>(tensor);
  CHECK(tensor.shape == Shape({1, 1, static_cast<int64_t>(ids.size())}));
  CHECK(Values<int32_t>(response.at("sequence_length")) == Ids({static_cast<int32_t>(ids.size())}));
  return ids;
}

TEST(new_tokens) {
  RowWriter writer(Streaming(), kEngine);
  const Response first = Write(writer, {{kA}});
  CHECK_EQ(first.size(), 2);
  CHECK(OutputIds(first) == Ids({kA}));
  CHECK(OutputIds(Write(writer, {{kA, kA}, ENGINERY_FINISH_LENGTH})) == Ids({kA, kA}));
}

TEST(prompt_is_repeated) {
  RowOptions options;
  options.repeated_prompt = {4, 4};
  RowWriter writer(options, kEngine);
  CHECK(OutputIds(Write(writer, {{kA}, ENGINERY_FINISH_LENGTH})) == Ids({4, 4, kA}));
}

TEST(tokens_of_half_a_character_wait) {
  RowOptions options = Streaming();
  options.returns_log_probs = true;
  options.returns_generation_logits = true;
  RowWriter writer(options, kEngine);
  CHECK(Write(writer, {{kFirst}}).empty());
  const Response whole = Write(writer, {{kSecond, kLead}});
  CHECK(OutputIds(whole) == Ids({kFirst, kSecond}));
  CHECK(Values<float>(whole.at("output_log_probs")) == std::vector<float>({-1, -1}));
  CHECK(whole.at("generation_logits").shape == Shape({1, 2, 1, kVocabSize}));
  const Response last = Write(writer, {{}, ENGINERY_FINISH_CANCELLED});
  CHECK(OutputIds(last) == Ids({kLead}));
  CHECK(Values<float>(last.at("output_log_probs")) == std::vector<float>({-1, -1, -2}));
  CHECK(Values<float>(last.at("cum_log_probs")) == std::vector<float>({-4}));
  CHECK(Values<float>(last.at("generation_logits")) ==
        std::vector<float>(kVocabSize, static_cast<float>(kLead)));
}

TEST(end_token_is_no_part_of_the_output_and_a_stop_token_is) {
  RowWriter ended(Streaming(), kEngine);
  CHECK(OutputIds(Write(ended, {{kA, kEnd}, ENGINERY_FINISH_END_ID, kEnd})) == Ids({kA}));
  RowWriter alone(Streaming(), kEngine);
  CHECK(OutputIds(Write(alone, {{kEnd}, ENGINERY_FINISH_END_ID, kEnd})).empty());
  RowWriter stopped(Streaming(), kEngine);
  CHECK(OutputIds(Write(stopped, {{kA, kLead}, ENGINERY_FINISH_STOP, kLead})) == Ids({kA, kLead}));
}

TEST(indices) {
  RowOptions options = Streaming();
  options.batch_index = 1;
  options.has_sequences = true;
  options.returns_num_output_tokens = true;
  RowWriter writer(options, kEngine);
  CHECK(Write(writer, {.token_ids = {kFirst}, .sequence_index = 0}).empty());
  const Response other = Write(writer, {.token_ids = {kA, kA}, .sequence_index = 1});
  CHECK(Values<int32_t>(other.at("batch_index")) == Ids({1}));
  CHECK(Values<int32_t>(other.at("sequence_index")) == Ids({1}));
  CHECK(Values<int32_t>(other.at("num_output_tokens")) == Ids({2}));
  CHECK(OutputIds(Write(writer, {{kSecond}})) == Ids({kFirst, kSecond}));
}

TEST(logits) {
  RowOptions options = Streaming();
  options.returns_generation_logits = true;
  RowWriter stream(options, kEngine);
  const Response first = Write(stream, {.token_ids = {kA, kA}, .has_context_logits = true});
  CHECK(first.at("context_logits").shape == Shape({1, 2, kVocabSize}));
  CHECK(first.at("generation_logits").shape == Shape({1, 2, 1, kVocabSize}));
  const Response later = Write(stream, {{kA}});
  CHECK(Values<float>(later.at("context_logits")) == std::vector<float>(2 * kVocabSize, 0.5f));
  options.is_streaming = false;
  RowWriter whole(options, kEngine);
  const Response once = Write(whole, {{kA, kA}, ENGINERY_FINISH_LENGTH});
  CHECK(once.at("generation_logits").shape == Shape({1, 1, 2, kVocabSize}));
  RowWriter nothing(options, kEngine);
  const Response none = Write(nothing, {{}, ENGINERY_FINISH_CANCELLED});
  CHECK(none.at("generation_logits").shape == Shape({1, 1, 0, 0}));
}

TEST(counts_and_times) {
  RowOptions options = Streaming();
  options.returns_perf_metrics = true;
  options.returns_num_input_tokens = true;
  RowWriter writer(options, kEngine);
  const Response response = Write(writer, {{kA}});
  const auto count = [&response](const char* name) {
    CHECK(response.at(name).shape == Shape({1, 1}));
    return Values<int32_t>(response.at(name))[0];
  };
  CHECK_EQ(count("num_input_tokens"), 32);
  CHECK_EQ(count("kv_cache_alloc_total_blocks"), 3);
  CHECK_EQ(count("kv_cache_reused_blocks"), 1);
  CHECK_EQ(count("kv_cache_alloc_new_blocks"), 2);
  CHECK_EQ(count("total_draft_tokens"), 0);
  CHECK(Values<int64_t>(response.at("arrival_time_ns")) == std::vector<int64_t>({1}));
  CHECK(Values<int64_t>(response.at("first_token_time_ns")) == std::vector<int64_t>({0}));
  CHECK(Values<int64_t>(response.at("last_token_time_ns")) == std::vector<int64_t>({4}));
}

TEST(responses_fit_the_table) {
  RowOptions options = Streaming();
  options.batch_index = 0;
  options.has_sequences = options.returns_log_probs = options.returns_generation_logits = true;
  options.returns_perf_metrics = options.returns_num_input_tokens = true;
  options.returns_num_output_tokens = true;
  RowWriter writer(options, kEngine);
  const Response response = Write(writer, {.token_ids = {kA}, .has_context_logits = true});
  // All but context_phase_params, which is never sent.
  CHECK_EQ(response.size(), Outputs().size() - 1);
  for (const auto& [name, tensor] : response) {
    CHECK(tensor.spec == FindTensor(Outputs(), name));
    const auto num_dims = 1 + std::ranges::count(tensor.spec->dims, ',');
    CHECK_EQ(tensor.shape.size(), static_cast<size_t>(1 + num_dims));
  }
}

// What the gate lets go at a time, each put together.
std::vector<std::string> Pieces(const std::vector<std::string>& tokens) {
  CharacterGate gate;
  std::vector<std::string> pieces;
  size_t next = 0;
  const auto take = [&](size_t count) {
    if (count > 0) pieces.emplace_back();
    for (; count > 0; --count) pieces.back() += tokens.at(next++);
  };
  for (const std::string& token : tokens) {
    gate.Put(token);
    take(gate.Release());
  }
  take(gate.Flush());
  CHECK_EQ(next, tokens.size());
  return pieces;
}

TEST(gate_lets_whole_characters_go) {
  using Texts = std::vector<std::string>;
  CHECK(Pieces({"a", " the", "\xC3\xA9"}) == Texts({"a", " the", "\xC3\xA9"}));
  CHECK(Pieces({"a", "\xF0", "\x9F", "\x98", "\x80", "b"}) ==
        Texts({"a", "\xF0\x9F\x98\x80", "b"}));
  CHECK(Pieces({"x\xC3", "\xA9\xE4\xB8", "\xAD"}) == Texts({"x\xC3\xA9\xE4\xB8\xAD"}));
  CHECK(Pieces({"\xC3", "", "\xA9"}) == Texts({"\xC3\xA9"}));
}

TEST(gate_does_not_wait_for_what_is_no_character) {
  using Texts = std::vector<std::string>;
  for (const char* broken : {"\xE2", "\xE2\x82", "\xF0\x9F", "\xC3"}) {
    CHECK(Pieces({broken, "a", "b"}) == Texts({std::string(broken) + "a", "b"}));
  }
  for (const char* byte : {"\x80", "\xC0", "\xC1", "\xF5", "\xFF"}) {
    CHECK(Pieces({byte, byte}) == Texts({byte, byte}));
  }
  CHECK(Pieces({"\xE2", "\xE2", "\xE2"}) == Texts({"\xE2", "\xE2", "\xE2"}));
  CHECK(Pieces({"a", "\xE4\xB8"}) == Texts({"a", "\xE4\xB8"}));
}

}  // namespace
}  // namespace enginery::triton::trtllm
