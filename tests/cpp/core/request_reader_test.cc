// SPDX-License-Identifier: Apache-2.0
//
// Every field of a request at its bounds: what is refused names the field, the value and what is
// accepted.
#include "core/request_reader.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "support/runtime_fixture.h"

namespace enginery::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::string Refusal(const std::function<void(enginery_request*)>& change,
                    const RuntimeConfig& config) {
  TestRequest request({1, 2, 3}, 5);
  enginery_request fields = request.view();
  change(&fields);
  try {
    ReadRequest(fields, config);
  } catch (const Error& error) {
    CHECK_EQ(error.status(), ENGINERY_INVALID_ARGUMENT);
    return error.what();
  }
  return "accepted";
}

struct Case {
  const char* message_part;
  std::function<void(enginery_request*)> change;
};

void CheckAll(const std::vector<Case>& cases, const RuntimeConfig& config) {
  for (const Case& c : cases) {
    const std::string message = Refusal(c.change, config);
    if (message.find(c.message_part) == std::string::npos) {
      fail(__FILE__, __LINE__, "\"" + message + "\" lacks \"" + c.message_part + "\"");
    }
  }
}

TEST(lengths) {
  const RuntimeConfig config = MakeConfig({});
  const std::vector<int32_t> long_prompt(161, 1);
  const int32_t outside[] = {1, 37, 2};
  const int32_t negative[] = {1, 2, -1};
  CheckAll(
      {
          {"num_prompt_tokens is 0; accepted: 1..160", [](auto* r) { r->num_prompt_tokens = 0; }},
          {"num_prompt_tokens is 161; accepted: 1..160",
           [&](auto* r) {
             r->prompt_token_ids = long_prompt.data();
             r->num_prompt_tokens = 161;
           }},
          {"num_prompt_tokens is 18446744073709551615",
           [](auto* r) { r->num_prompt_tokens = UINT64_MAX; }},
          {"prompt_token_ids is NULL", [](auto* r) { r->prompt_token_ids = nullptr; }},
          {"prompt_token_ids[1] is 37; accepted: 0..36",
           [&](auto* r) { r->prompt_token_ids = outside; }},
          {"prompt_token_ids[2] is -1", [&](auto* r) { r->prompt_token_ids = negative; }},
          {"max_tokens is -1; accepted: 0..197", [](auto* r) { r->max_tokens = -1; }},
          {"max_tokens is 198", [](auto* r) { r->max_tokens = 198; }},
          {"max_tokens is 9223372036854775807", [](auto* r) { r->max_tokens = INT64_MAX; }},
          {"min_tokens is 6; accepted: 0..5", [](auto* r) { r->min_tokens = 6; }},
          {"min_tokens is -1", [](auto* r) { r->min_tokens = -1; }},
          {"num_return_sequences is 0; accepted: 1..8",
           [](auto* r) { r->num_return_sequences = 0; }},
          {"num_return_sequences is 9", [](auto* r) { r->num_return_sequences = 9; }},
          {"accepted", [](auto* r) { r->max_tokens = 197; }},
          {"min_tokens is 1; accepted: 0..0",
           [](auto* r) {
             r->max_tokens = 0;
             r->min_tokens = 1;
           }},
          {"accepted", [](auto* r) { r->max_tokens = 0; }},
      },
      config);
}

TEST(sampling) {
  const RuntimeConfig config = MakeConfig({});
  const float nan = std::nanf("");
  CheckAll(
      {
          {"temperature is nan", [&](auto* r) { r->temperature = nan; }},
          {"temperature is -1", [](auto* r) { r->temperature = -1.0f; }},
          {"temperature is inf", [](auto* r) { r->temperature = kInfinity; }},
          {"top_p is 0", [](auto* r) { r->top_p = 0.0f; }},
          {"top_p is 1.5", [](auto* r) { r->top_p = 1.5f; }},
          {"top_p is nan", [&](auto* r) { r->top_p = nan; }},
          {"min_p is -0.5", [](auto* r) { r->min_p = -0.5f; }},
          {"min_p is nan", [&](auto* r) { r->min_p = nan; }},
          {"top_k is -1; accepted: 0 (all tokens) or at least 1; set 0",
           [](auto* r) { r->top_k = -1; }},
          {"repetition_penalty is 0", [](auto* r) { r->repetition_penalty = 0.0f; }},
          {"repetition_penalty is nan", [&](auto* r) { r->repetition_penalty = nan; }},
          {"presence_penalty is inf", [](auto* r) { r->presence_penalty = kInfinity; }},
          {"frequency_penalty is nan", [&](auto* r) { r->frequency_penalty = nan; }},
          {"num_logprobs is 21; accepted: -1..20", [](auto* r) { r->num_logprobs = 21; }},
          {"num_logprobs is -2", [](auto* r) { r->num_logprobs = -2; }},
          {"accepted",
           [](auto* r) {
             r->temperature = 1e-40f;
             r->top_k = 1'000'000;
             r->num_logprobs = 20;
           }},
      },
      config);
}

TEST(stops_bans_and_bias) {
  const RuntimeConfig config = MakeConfig({});
  const int32_t outside[] = {40};
  const int32_t one[] = {1};
  const enginery_string_view empty = {"", 0};
  const enginery_string_view not_utf8 = {"\xC3", 1};
  const enginery_string_view without_data = {nullptr, 3};
  const enginery_token_sequence no_tokens = {one, 0};
  const enginery_token_sequence bad_outside = {outside, 1};
  const enginery_logit_bias infinite = {1, kInfinity};
  const enginery_logit_bias nan = {1, std::nanf("")};
  const enginery_logit_bias bias_outside = {37, 1.0f};
  const enginery_logit_bias ban = {1, -kInfinity};
  const auto stops = [](const enginery_string_view* s) {
    return [s](auto* r) {
      r->stop_strings = s;
      r->num_stop_strings = 1;
    };
  };
  const auto bads = [](const enginery_token_sequence* s) {
    return [s](auto* r) {
      r->bad_token_sequences = s;
      r->num_bad_token_sequences = 1;
    };
  };
  const auto biases = [](const enginery_logit_bias* b) {
    return [b](auto* r) {
      r->logit_bias = b;
      r->num_logit_bias = 1;
    };
  };
  CheckAll(
      {
          {"stop_token_ids[0] is 40",
           [&](auto* r) {
             r->stop_token_ids = outside;
             r->num_stop_token_ids = 1;
           }},
          {"stop_token_ids is NULL", [](auto* r) { r->num_stop_token_ids = 2; }},
          {"num_stop_token_ids is 1152921504606846976",
           [&](auto* r) {
             r->stop_token_ids = one;
             r->num_stop_token_ids = uint64_t{1} << 60;
           }},
          {"stop_strings[0].bytes is 0", stops(&empty)},
          {"stop_strings[0].bytes is 0", stops(&without_data)},
          {"stop_strings[0] is not UTF-8", stops(&not_utf8)},
          {"stop_strings is NULL", [](auto* r) { r->num_stop_strings = 1; }},
          {"num_stop_strings is 1000", [](auto* r) { r->num_stop_strings = 1000; }},
          {"bad_token_sequences[0].num_tokens is 0", bads(&no_tokens)},
          {"bad_token_sequences[0].token_ids[0] is 40", bads(&bad_outside)},
          {"logit_bias[0].bias is inf", biases(&infinite)},
          {"logit_bias[0].bias is nan", biases(&nan)},
          {"logit_bias[0].token_id is 37", biases(&bias_outside)},
          {"accepted", biases(&ban)},
      },
      config);
}

TEST(flags_and_timeout) {
  const RuntimeConfig config = MakeConfig({});
  CheckAll(
      {
          {"ignore_eos is 2; accepted: 0..1", [](auto* r) { r->ignore_eos = 2; }},
          {"include_stop is 3; accepted: 0..2", [](auto* r) { r->include_stop = 3; }},
          {"return_prompt_logprobs is 2", [](auto* r) { r->return_prompt_logprobs = 2; }},
          {"num_prompt_logprobs is 1; accepted: 0..0; set return_prompt_logprobs to 1",
           [](auto* r) { r->num_prompt_logprobs = 1; }},
          {"num_prompt_logprobs is 21; accepted: 0..20",
           [](auto* r) {
             r->return_prompt_logprobs = 1;
             r->num_prompt_logprobs = 21;
           }},
          {"num_prompt_logprobs is -1",
           [](auto* r) {
             r->return_prompt_logprobs = 1;
             r->num_prompt_logprobs = -1;
           }},
          {"accepted",
           [](auto* r) {
             r->return_prompt_logprobs = 1;
             r->num_prompt_logprobs = 20;
           }},
          {"show_special_tokens is 7", [](auto* r) { r->show_special_tokens = 7; }},
          {"streaming is 3", [](auto* r) { r->streaming = 3; }},
          {"return_context_logits is 2", [](auto* r) { r->return_context_logits = 2; }},
          {"return_generation_logits is 2", [](auto* r) { r->return_generation_logits = 2; }},
          {"timeout_ms is -1", [](auto* r) { r->timeout_ms = -1; }},
          {"accepted", [](auto* r) { r->timeout_ms = INT64_MAX; }},
      },
      config);
}

TEST(ids_of_clients) {
  const RuntimeConfig config = MakeConfig({});
  const std::string longest(256, 'a');
  CheckAll(
      {
          {"accepted", [](auto* r) { r->client_request_id = {nullptr, 7}; }},
          {"accepted", [&](auto* r) { r->client_request_id = {longest.data(), 256}; }},
          {"client_request_id.bytes is 257; accepted: 0..256",
           [&](auto* r) { r->client_request_id = {longest.data(), 257}; }},
          {"client_request_id is not UTF-8", [](auto* r) { r->client_request_id = {"\xFF", 1}; }},
      },
      config);
  TestRequest named({1, 2, 3}, 5);
  named.fields.client_request_id = {"chat-7", 6};
  CHECK_EQ(ReadRequest(named.view(), config)->client_request_id, "chat-7");
}

TEST(whole_prompts_must_fit_a_step) {
  FixtureOptions options;
  options.enable_chunked_context = false;
  options.max_num_tokens = 10;
  const std::vector<int32_t> prompt(11, 1);
  CheckAll({{"num_prompt_tokens is 11; accepted: 1..10; with enable_chunked_context 0",
             [&](auto* r) {
               r->prompt_token_ids = prompt.data();
               r->num_prompt_tokens = 11;
             }}},
           MakeConfig(options));
}

// Its rows must fit the step too.
TEST(whole_prompts_must_leave_rows_to_others) {
  FixtureOptions options;
  options.enable_chunked_context = false;
  options.max_logit_rows = 12;
  const std::vector<int32_t> prompt(6, 1);
  const auto wanting = [&prompt](int32_t enginery_request::* field, size_t num_tokens) {
    return [&prompt, field, num_tokens](auto* r) {
      r->prompt_token_ids = prompt.data();
      r->num_prompt_tokens = num_tokens;
      r->*field = 1;
    };
  };
  CheckAll(
      {
          {"return_context_logits is 1; accepted: 0 for a prompt of more than 5 tokens",
           wanting(&enginery_request::return_context_logits, 6)},
          {"return_prompt_logprobs is 1; accepted: 0 for a prompt of more than 5 tokens",
           wanting(&enginery_request::return_prompt_logprobs, 6)},
          {"accepted", wanting(&enginery_request::return_prompt_logprobs, 5)},
      },
      MakeConfig(options));
}

TEST(options_are_checked) {
  enginery_runtime_options options = {};
  options.kv_cache_bytes = 1;
  ModelFacts model = MakeConfig({}).model;
  const auto refusal = [&](const std::function<void(enginery_runtime_options*)>& change) {
    enginery_runtime_options changed = options;
    change(&changed);
    try {
      ReadRuntimeOptions(changed, model);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  const std::vector<std::pair<std::string, std::function<void(enginery_runtime_options*)>>> cases =
      {
          {"max_batch_size is 9; accepted: 0..8", [](auto* o) { o->max_batch_size = 9; }},
          {"max_num_tokens is -1", [](auto* o) { o->max_num_tokens = -1; }},
          {"max_queue_size is -1", [](auto* o) { o->max_queue_size = -1; }},
          {"policy is 3; accepted: 0..2", [](auto* o) { o->policy = 3; }},
          {"enable_block_reuse is 2", [](auto* o) { o->enable_block_reuse = 2; }},
          {"max_chunk_tokens is 33",
           [](auto* o) {
             o->enable_chunked_context = 1;
             o->max_chunk_tokens = 33;
           }},
          {"with enable_chunked_context 0", [](auto* o) { o->max_chunk_tokens = 5; }},
          {"kv_cache_bytes is -5", [](auto* o) { o->kv_cache_bytes = -5; }},
          {"iteration_stats_capacity is -1", [](auto* o) { o->iteration_stats_capacity = -1; }},
          {"watchdog_timeout_ms is 9223372036854775807; accepted: 0..9223372036854;",
           [](auto* o) { o->watchdog_timeout_ms = INT64_MAX; }},
          {"accepted", [](auto*) {}},
      };
  for (const auto& [part, change] : cases) {
    const std::string message = refusal(change);
    if (message.find(part) == std::string::npos) fail(__FILE__, __LINE__, message + " / " + part);
  }
}

TEST(the_default_kv_cache_takes_what_is_needed_or_half_of_what_is_free) {
  enginery_runtime_options options = {};
  ModelFacts model = MakeConfig({}).model;
  // 8 sequences of 200 tokens in blocks of 4, 8 bytes a token.
  CHECK_EQ(ReadRuntimeOptions(options, model).kv_cache_bytes, 8 * 200 * 8);
  model.max_seq_len = 201;
  CHECK_EQ(ReadRuntimeOptions(options, model).kv_cache_bytes, 8 * 204 * 8);
  for (const uint64_t bytes : {uint64_t{1} << 40, uint64_t{1} << 60}) {  // the second overflows
    model.kv_bytes_per_token = bytes;
    const uint64_t chosen = ReadRuntimeOptions(options, model).kv_cache_bytes;
    CHECK_GT(chosen, 0);
    CHECK_LE(chosen, AvailableMemoryBytes());
  }
}

}  // namespace
}  // namespace enginery::test
