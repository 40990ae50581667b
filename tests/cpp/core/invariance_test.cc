// SPDX-License-Identifier: Apache-2.0
//
// What a request gives depends on the request alone: not on the others, the policy, chunks, blocks,
// preemption, prefix reuse, forks, nor on who samples.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/str_cat.h"
#include "check.h"
#include "support/runtime_fixture.h"

namespace enginery::test {
namespace {

int64_t Pick(std::mt19937_64* random, int64_t low, int64_t high) {
  return low + static_cast<int64_t>((*random)() % static_cast<uint64_t>(high - low + 1));
}

FixtureOptions RandomOptions(std::mt19937_64* random) {
  FixtureOptions options;
  options.tokens_per_block = Pick(random, 1, 5);
  options.max_batch_size = Pick(random, 3, 9);
  options.max_num_tokens = Pick(random, 3, 40);
  options.policy = static_cast<int32_t>(Pick(random, 0, 2));
  options.enable_chunked_context = Pick(random, 0, 3) != 0;
  if (!options.enable_chunked_context) options.max_num_tokens = Pick(random, 30, 50);
  if (options.enable_chunked_context && Pick(random, 0, 1) == 0) {
    options.max_chunk_tokens = Pick(random, 1, options.max_num_tokens);
  }
  if (options.enable_chunked_context && Pick(random, 0, 1) == 0) {
    const int64_t least = std::min(options.max_batch_size, options.max_num_tokens);
    options.max_logit_rows = Pick(random, least, options.max_num_tokens);
  }
  options.enable_block_reuse = Pick(random, 0, 2) != 0;
  // A request has at most 30 prompt and 30 output tokens; three of them must fit where nothing is
  // preempted, one where the scheduler may preempt: as scarce as is allowed, now and then.
  const int64_t one = (59 + options.tokens_per_block - 1) / options.tokens_per_block;
  const int64_t least = options.policy == ENGINERY_POLICY_MAX_UTILIZATION ? one : 3 * one;
  options.num_blocks = least + (Pick(random, 0, 1) == 0 ? 0 : Pick(random, 0, 3 * one));
  return options;
}

std::vector<TestRequest> RandomRequests(std::mt19937_64* random, size_t count) {
  const std::vector<int32_t> common = RandomTokens(random, 24);
  std::vector<TestRequest> requests;
  for (size_t i = 0; i < count; ++i) {
    std::vector<int32_t> prompt;
    if (Pick(random, 0, 1) == 0) {  // a prefix that others have too
      prompt.assign(common.begin(), common.begin() + Pick(random, 1, 24));
    }
    const auto more = RandomTokens(random, static_cast<size_t>(Pick(random, 1, 6)));
    prompt.insert(prompt.end(), more.begin(), more.end());
    TestRequest request(prompt, Pick(random, 0, 30));
    enginery_request& fields = request.fields;
    fields.ignore_eos = static_cast<int32_t>(Pick(random, 0, 1));
    fields.num_return_sequences = static_cast<int32_t>(Pick(random, 0, 3) == 0 ? 3 : 1);
    if (Pick(random, 0, 1) == 0) {
      fields.temperature = 1.5f;
      fields.seed = (*random)();
      fields.top_p = Pick(random, 0, 1) == 0 ? 1.0f : 0.9f;
      fields.top_k = static_cast<int32_t>(Pick(random, 0, 1) == 0 ? 0 : 20);
      fields.repetition_penalty = Pick(random, 0, 1) == 0 ? 1.0f : 1.3f;
      fields.frequency_penalty = Pick(random, 0, 1) == 0 ? 0.0f : 0.5f;
    }
    fields.min_tokens = Pick(random, 0, 2) == 0 ? Pick(random, 0, fields.max_tokens) : 0;
    if (Pick(random, 0, 2) == 0) request.stop_token_ids = RandomTokens(random, 1);
    if (Pick(random, 0, 2) == 0) request.stop_strings = {"ab", "cde", "\xE2\x82\xAC", "aba"};
    fields.include_stop = static_cast<int32_t>(Pick(random, 0, 1));
    fields.priority = static_cast<int32_t>(Pick(random, -1, 1));
    fields.streaming = static_cast<int32_t>(Pick(random, 0, 1));
    fields.return_generation_logits = static_cast<int32_t>(Pick(random, 0, 1));
    fields.return_context_logits = static_cast<int32_t>(Pick(random, 0, 4) == 0 ? 1 : 0);
    if (Pick(random, 0, 4) == 0) {
      fields.return_prompt_logprobs = 1;
      fields.num_prompt_logprobs = static_cast<int32_t>(Pick(random, 0, 3));
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

void CheckContextLogits(const TestRequest& request, const SequenceResult& got) {
  for (size_t p = 0; p < request.prompt.size(); ++p) {
    const auto prefix = std::span(request.prompt).first(p + 1);
    const std::vector<float> expected = HashModel::Logits(prefix, kVocabSize);
    const auto begin = got.context_logits.begin() + static_cast<int64_t>(p) * kVocabSize;
    REQUIRE(std::equal(expected.begin(), expected.end(), begin));
  }
}

void CheckResult(TestRequest* request, int32_t index, const SequenceResult& got) {
  const SequenceResult expected = Reference(request, index);
  CHECK(got.token_ids == expected.token_ids);
  CHECK_EQ(got.text, expected.text);
  CHECK_EQ(got.finish_reason, expected.finish_reason);
  CHECK_EQ(got.stop_string, expected.stop_string);
  CHECK_EQ(got.stop_token_id, expected.stop_token_id);
  CHECK_EQ(got.error, "");
  if (request->fields.return_generation_logits != 0) {
    CHECK(got.generation_logits == expected.generation_logits);
  } else {
    CHECK(got.generation_logits.empty());
  }
  if (request->fields.streaming == 0) CHECK_EQ(got.num_events, 1);
}

struct Totals {
  int64_t num_preemptions = 0;
  int64_t num_reused_tokens = 0;
  int64_t num_copies = 0;
};

void RunRound(uint64_t seed, Totals* totals) {
  std::mt19937_64 random(seed);
  const FixtureOptions options = RandomOptions(&random);
  std::vector<TestRequest> requests =
      RandomRequests(&random, static_cast<size_t>(Pick(&random, 1, 14)));
  FakeExecutor executor(kVocabSize, options.num_blocks);
  executor.samples_greedy = Pick(&random, 0, 1) == 0;
  executor.spares_logits = executor.samples_greedy && Pick(&random, 0, 1) == 0;
  Runtime runtime(MakeConfig(options), executor.table(), nullptr);
  std::vector<uint64_t> ids;
  std::vector<uint64_t> cancelled;
  Results results;
  for (TestRequest& request : requests) {
    ids.push_back(runtime.Submit(request.view()));
    if (Pick(&random, 0, 9) == 0) {  // some end early, at any moment
      cancelled.push_back(ids.back());
      try {
        runtime.Cancel(ids.back());
      } catch (const Error& error) {
        CHECK_EQ(error.status(), ENGINERY_NOT_FOUND);  // it was faster
      }
    }
  }
  results = TakeResults(&runtime, requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    const bool was_cancelled =
        std::find(cancelled.begin(), cancelled.end(), ids[i]) != cancelled.end();
    bool has_context = false;
    uint64_t num_with_prompt_logprobs = 0;
    for (int32_t index = 0; index < requests[i].fields.num_return_sequences; ++index) {
      REQUIRE(results.contains({ids[i], index}));
      const SequenceResult& got = results[{ids[i], index}];
      if (!was_cancelled || got.finish_reason != ENGINERY_FINISH_CANCELLED) {
        CheckResult(&requests[i], index, got);
      }
      if (!got.context_logits.empty()) {
        CHECK(!has_context);
        has_context = true;
        CheckContextLogits(requests[i], got);
      }
      num_with_prompt_logprobs += got.num_with_prompt_logprobs;
      if (got.num_with_prompt_logprobs > 0) CHECK(HasPromptLogprobs(requests[i], got));
    }
    const auto wants_prompt = static_cast<uint64_t>(requests[i].fields.return_prompt_logprobs);
    CHECK(num_with_prompt_logprobs <= wants_prompt);
    if (!was_cancelled) CHECK_EQ(num_with_prompt_logprobs, wants_prompt);
    if (!was_cancelled) CHECK_EQ(has_context, requests[i].fields.return_context_logits != 0);
  }
  runtime.Shutdown(true, std::nullopt);
  const enginery_stats stats = runtime.Stats();
  CHECK_EQ(stats.num_free_blocks, stats.num_blocks);
  CHECK_EQ(stats.num_waiting, 0);
  CHECK_EQ(stats.num_running, 0);
  CHECK_EQ(stats.num_requests, requests.size());
  CHECK_EQ(stats.num_finished, requests.size());
  if (options.policy != ENGINERY_POLICY_MAX_UTILIZATION) CHECK_EQ(stats.num_preemptions, 0);
  if (!options.enable_block_reuse) CHECK_EQ(stats.num_reused_tokens, 0);
  for (const std::string& error : executor.errors) fail(__FILE__, __LINE__, error);
  totals->num_preemptions += static_cast<int64_t>(stats.num_preemptions);
  totals->num_reused_tokens += static_cast<int64_t>(stats.num_reused_tokens);
  totals->num_copies += executor.num_copies;
}

TEST(results_depend_on_the_request_alone) {
  Totals totals;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const int failures_before = failures_in_case();
    RunRound(seed, &totals);
    if (failures_in_case() > failures_before) {
      fail(__FILE__, __LINE__, StrCat("with seed ", seed));
      return;
    }
  }
  // The rounds did meet what they are about.
  CHECK_GT(totals.num_preemptions, 100);
  CHECK_GT(totals.num_reused_tokens, 1000);
  CHECK_GT(totals.num_copies, 100);
}

}  // namespace
}  // namespace enginery::test
