// SPDX-License-Identifier: Apache-2.0
//
// From events to output tensors: joined where they pile up, in the bytes that Triton server takes.
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "native/responses.h"
#include "support/output_tensors.h"

namespace enginery::triton {
namespace {

Delta MakeDelta(uint64_t request_id, int32_t sequence_index, std::vector<int32_t> token_ids,
                const char* text, int32_t finish_reason = ENGINERY_FINISH_NONE,
                bool is_last = false) {
  enginery_event event{};
  event.request_id = request_id;
  event.sequence_index = sequence_index;
  event.finish_reason = finish_reason;
  event.is_last = is_last ? 1 : 0;
  event.error = "";
  event.token_ids = token_ids.data();
  event.num_token_ids = token_ids.size();
  event.text = text;
  event.text_bytes = std::strlen(text);
  std::vector<enginery_logprob> logprobs;
  for (const int32_t id : token_ids) {
    logprobs.insert(logprobs.end(), {{id, -0.5f}, {41, -0.125f}, {42, -0.25f}});
  }
  event.logprobs = logprobs.data();
  event.logprobs_per_token = 3;
  event.num_prompt_tokens = 3;
  event.num_output_tokens = 4;
  event.last_token_ns = 99;
  return Delta(event, 0);
}

std::string Text(const OutputTensor& tensor) {
  uint32_t num_bytes = 0;
  std::memcpy(&num_bytes, tensor.data.data(), sizeof num_bytes);
  CHECK_EQ(tensor.data.size(), sizeof num_bytes + num_bytes);
  return tensor.data.substr(sizeof num_bytes);
}

TEST(deltas_of_a_sequence_are_joined_and_the_last_stays_last) {
  std::vector<Delta> deltas;
  deltas.push_back(MakeDelta(1, 0, {1}, "a"));
  deltas.push_back(MakeDelta(2, 0, {9}, "z"));
  deltas.push_back(MakeDelta(1, 1, {5}, "x", ENGINERY_FINISH_LENGTH));
  deltas.push_back(MakeDelta(1, 0, {2, 3}, "bc"));
  deltas.push_back(MakeDelta(1, 0, {4}, "d", ENGINERY_FINISH_STOP, true));
  const std::vector<Delta> merged = Merge(std::move(deltas));
  REQUIRE_EQ(merged.size(), 3);
  CHECK_EQ(merged[0].text, "z");
  CHECK_EQ(merged[1].text, "x");
  CHECK_EQ(merged[2].text, "abcd");
  CHECK(merged[2].token_ids == std::vector<int32_t>({1, 2, 3, 4}));
  CHECK_EQ(merged[2].log_probs.own.size(), 4);
  CHECK(merged[2].log_probs.top_token_ids ==
        std::vector<int32_t>({41, 42, 41, 42, 41, 42, 41, 42}));
  CHECK(merged[2].is_last);
}

TEST(plain_response) {
  ResponseWriter writer({}, {});
  const auto found = ByName(writer.Write(MakeDelta(1, 2, {7, 8}, "caf\xC3\xA9")));
  CHECK_EQ(found.size(), 4);
  CHECK_EQ(Text(found.at("text_output")), "caf\xC3\xA9");
  CHECK(Values<int32_t>(found.at("output_ids")) == std::vector<int32_t>({7, 8}));
  CHECK(Values<int32_t>(found.at("sequence_index")) == std::vector<int32_t>({2}));
  CHECK_EQ(Text(found.at("finish_reason")), "");
}

TEST(log_probs_add_up_per_sequence) {
  ResponseWriter writer({.returns_log_probs = true}, {});
  writer.Write(MakeDelta(1, 0, {7, 8}, ""));
  writer.Write(MakeDelta(1, 1, {7}, ""));
  const auto found = ByName(writer.Write(MakeDelta(1, 0, {9}, "")));
  CHECK(Values<float>(found.at("output_log_probs")) == std::vector<float>({-0.5f}));
  CHECK(Values<float>(found.at("cum_log_probs")) == std::vector<float>({-1.5f}));
}

TEST(likeliest_tokens_follow_one_another) {
  ResponseWriter writer({.returns_log_probs = true, .returns_top_tokens = true}, {});
  const auto found = ByName(writer.Write(MakeDelta(1, 0, {7, 8}, "")));
  CHECK(Values<int32_t>(found.at("top_token_ids")) == std::vector<int32_t>({41, 42, 41, 42}));
  CHECK(Values<float>(found.at("top_log_probs")) ==
        std::vector<float>({-0.125f, -0.25f, -0.125f, -0.25f}));
  CHECK(!found.contains("prompt_log_probs"));
}

// An event that tells of its prompt.
Delta WithPrompt(Delta delta) {
  delta.prompt_log_probs = LogProbs{{-2.0f}, {9}, {-0.25f}};
  return delta;
}

TEST(log_probs_of_the_prompt) {
  ResponseWriter writer({.returns_prompt_top_tokens = true}, {});
  const auto found = ByName(writer.Write(WithPrompt(MakeDelta(1, 0, {}, ""))));
  CHECK(Values<float>(found.at("prompt_log_probs")) == std::vector<float>({-2.0f}));
  CHECK(Values<int32_t>(found.at("prompt_top_token_ids")) == std::vector<int32_t>({9}));
  CHECK(Values<float>(found.at("prompt_top_log_probs")) == std::vector<float>({-0.25f}));
  CHECK(!ByName(writer.Write(MakeDelta(1, 0, {}, ""))).contains("prompt_log_probs"));

  enginery_event event{};
  event.error = "";
  event.text = "";
  CHECK(!Delta(event, 0).prompt_log_probs);
  event.prompt_logprobs_per_token = 3;  // of a prompt of one token
  const Delta empty(event, 0);
  REQUIRE(empty.prompt_log_probs.has_value());
  CHECK(empty.prompt_log_probs->own.empty());
  const std::vector<enginery_logprob> logprobs = {{1, -1.0f}, {5, -0.5f}, {6, -0.75f}};
  event.prompt_logprobs = logprobs.data();
  event.num_prompt_logprobs = 1;
  const Delta one(event, 0);
  CHECK(one.prompt_log_probs->own == std::vector<float>({-1.0f}));
  CHECK(one.prompt_log_probs->top_token_ids == std::vector<int32_t>({5, 6}));
  CHECK(one.prompt_log_probs->top == std::vector<float>({-0.5f, -0.75f}));
}

TEST(what_is_of_the_prompt_stays_in_the_first_response) {
  std::vector<Delta> deltas;
  deltas.push_back(WithPrompt(MakeDelta(1, 0, {1}, "a")));
  deltas.push_back(MakeDelta(2, 0, {9}, "z"));
  deltas.push_back(MakeDelta(1, 1, {5}, "x"));
  deltas.push_back(MakeDelta(1, 0, {2}, "b"));
  const std::vector<Delta> merged = Merge(std::move(deltas));
  REQUIRE_EQ(merged.size(), 3);
  CHECK(!merged[0].prompt_log_probs);
  CHECK_EQ(merged[1].text, "x");
  CHECK(merged[1].prompt_log_probs.has_value());
  CHECK(!merged[2].prompt_log_probs);
}

TEST(prompt_is_repeated_once_per_sequence) {
  ResponseWriter writer({.repeats_prompt = true}, {1, 2});
  const auto ids = [&writer](int32_t index) {
    return Values<int32_t>(ByName(writer.Write(MakeDelta(1, index, {7}, ""))).at("output_ids"));
  };
  CHECK(ids(0) == std::vector<int32_t>({1, 2, 7}));
  CHECK(ids(1) == std::vector<int32_t>({1, 2, 7}));
  CHECK(ids(0) == std::vector<int32_t>({7}));
}

TEST(counts_and_times_come_at_the_end) {
  ResponseWriter writer({.returns_perf_metrics = true}, {});
  CHECK_EQ(writer.Write(MakeDelta(1, 0, {7}, "")).size(), 4);
  const auto found = ByName(writer.Write(MakeDelta(1, 0, {}, "", ENGINERY_FINISH_TIMEOUT, true)));
  CHECK_EQ(Text(found.at("finish_reason")), "timeout");
  CHECK(Values<int32_t>(found.at("num_input_tokens")) == std::vector<int32_t>({3}));
  CHECK(Values<int64_t>(found.at("last_token_time_ns")) == std::vector<int64_t>({99}));
  CHECK(Values<int32_t>(found.at("output_ids")).empty());
}

}  // namespace
}  // namespace enginery::triton
