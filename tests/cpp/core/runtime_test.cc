// SPDX-License-Identifier: Apache-2.0
//
// The serving loop over the fake executor: events, ends, failures, shutdown.
#include "core/runtime.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/utf8.h"
#include "check.h"
#include "support/runtime_fixture.h"
#include "support/runtime_over_fake.h"

namespace enginery::test {
namespace {

using std::chrono::milliseconds;

enginery_status StatusOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.status();
  }
  return ENGINERY_OK;
}

TEST(a_streamed_request_tells_one_token_an_event) {
  Fixture f;
  Runtime& runtime = f.Start();
  TestRequest request = Endless({1, 2, 3}, 5);
  const uint64_t id = runtime.Submit(request.view());
  CHECK_NE(id, 0);
  const Results results = TakeResults(&runtime, 1);
  const SequenceResult& r = results.at({id, 0});
  CHECK_EQ(r.num_events, 5);
  CHECK(r.token_ids == Reference(&request, 0).token_ids);
  CHECK_EQ(r.finish_reason, ENGINERY_FINISH_LENGTH);
  CHECK(r.is_last);
}

TEST(times_and_counts_of_events) {
  Fixture f;
  Runtime& runtime = f.Start();
  TestRequest request = Endless({1, 2, 3}, 3);
  request.fields.num_return_sequences = 2;
  runtime.Submit(request.view());
  Events all;
  for (bool is_done = false; !is_done;) {
    Events events;
    REQUIRE(runtime.Poll(milliseconds(60'000), &events));
    for (auto& event : events) {
      is_done |= event->view.is_last != 0;
      all.push_back(std::move(event));
    }
  }
  REQUIRE_EQ(all.size(), 6);
  uint64_t num_last = 0;
  for (const auto& event : all) {
    const enginery_event& e = event->view;
    CHECK(IsUtf8({e.text, e.text_bytes}));
    CHECK(e.arrival_ns > 0 && e.first_scheduled_ns >= e.arrival_ns);
    CHECK(e.first_token_ns >= e.first_scheduled_ns && e.last_token_ns >= e.first_token_ns);
    CHECK_EQ(e.num_prompt_tokens, 3);
    CHECK_EQ(std::string(e.error), "");
    num_last += e.is_last != 0 ? 1 : 0;
  }
  CHECK_EQ(all[0]->view.num_output_tokens, 1);
  CHECK_EQ(all[5]->view.num_output_tokens, 3);
  CHECK_EQ(num_last, 1);
  CHECK_EQ(all[5]->view.is_last, 1);
  const enginery_stats stats = runtime.Stats();  // whoever saw the event finds it counted
  CHECK_EQ(stats.num_output_tokens, 6);
  CHECK_EQ(stats.num_prompt_tokens, 3);
  CHECK_EQ(stats.num_finished, 1);
  CHECK_EQ(stats.num_iterations, 3);
  CHECK_EQ(stats.num_scheduled_tokens, 3 + 2 + 2);
  CHECK(stats.step_ns >= stats.scheduler_ns);
}

TEST(logprobs_come_with_every_token) {
  Fixture f;
  Runtime& runtime = f.Start();
  TestRequest request = Endless({4, 5}, 4);
  request.fields.num_logprobs = 2;
  request.fields.temperature = 1.3f;
  request.fields.repetition_penalty = 1.5f;
  const uint64_t id = runtime.Submit(request.view());
  const SequenceResult r = TakeResults(&runtime, 1).at({id, 0});
  REQUIRE_EQ(r.logprobs.size(), 4 * 3);
  std::vector<int32_t> tokens = request.prompt;
  for (size_t i = 0; i < 4; ++i) {
    enginery_logprob expected[3];
    ComputeLogprobs(HashModel::Logits(tokens, kVocabSize), r.token_ids[i], 2, expected);
    for (size_t j = 0; j < 3; ++j) {
      CHECK_EQ(r.logprobs[3 * i + j].token_id, expected[j].token_id);
      CHECK_EQ(r.logprobs[3 * i + j].logprob, expected[j].logprob);
    }
    tokens.push_back(r.token_ids[i]);
  }
}

TEST(prompt_logprobs_come_in_pieces_and_are_told_once) {
  FixtureOptions options;
  options.max_num_tokens = 16;
  options.max_batch_size = 4;
  options.max_logit_rows = 5;  // two positions a step, with rows left for three others
  Fixture f(options);
  f.executor.samples_greedy = true;
  f.executor.spares_logits = true;
  Runtime& runtime = f.Start();
  TestRequest request = Endless({4, 5, 6, 7, 8, 9, 10}, 3);
  request.fields.return_prompt_logprobs = 1;
  request.fields.num_prompt_logprobs = 2;
  request.fields.num_return_sequences = 2;
  request.fields.temperature = 1.3f;         // without effect on them
  for (int round = 0; round < 2; ++round) {  // the second finds the first one's blocks
    const uint64_t id = runtime.Submit(request.view());
    const Results results = TakeResults(&runtime, 1);
    CHECK_EQ(results.at({id, 0}).num_with_prompt_logprobs, 1);
    CHECK(HasPromptLogprobs(request, results.at({id, 0})));
    CHECK_EQ(results.at({id, 0}).num_reused_tokens, 0);
    CHECK_EQ(results.at({id, 1}).num_with_prompt_logprobs, 0);
  }
}

TEST(prompt_of_one_token_has_no_logprobs_and_needs_no_logits) {
  Fixture f;
  f.executor.samples_greedy = true;
  f.executor.forgets_logits = true;
  Runtime& runtime = f.Start();
  TestRequest request = Endless({4}, 3);
  request.fields.return_prompt_logprobs = 1;
  const uint64_t id = runtime.Submit(request.view());
  const SequenceResult r = TakeResults(&runtime, 1).at({id, 0});
  CHECK_EQ(r.error, "");
  CHECK_EQ(r.num_with_prompt_logprobs, 1);
  CHECK(r.prompt_logprobs.empty());
}

TEST(nan_in_a_prompt_whose_logprobs_are_wanted_ends_the_request) {
  Fixture f;
  f.executor.nan_token = 35;
  Runtime& runtime = f.Start();
  TestRequest request = Endless({1, 35, 2}, 3);
  const uint64_t plain = runtime.Submit(request.view());
  request.fields.return_prompt_logprobs = 1;
  const uint64_t scored = runtime.Submit(request.view());
  const Results results = TakeResults(&runtime, 2);
  CHECK_EQ(results.at({plain, 0}).error, "");
  const SequenceResult& r = results.at({scored, 0});
  CHECK_EQ(r.status, ENGINERY_EXECUTOR_FAILED);
  CHECK(r.error.find("no log probability at prompt position 2") != std::string::npos);
  CHECK_EQ(r.num_with_prompt_logprobs, 0);
  CHECK_EQ(r.num_events, 1);
}

TEST(nothing_is_drawn_for_a_prompt_alone) {
  Fixture f;
  Runtime& runtime = f.Start();
  TestRequest request = Endless({4, 5, 6, 7}, 0);  // a whole block
  request.fields.return_prompt_logprobs = 1;
  request.fields.num_return_sequences = 2;
  const uint64_t id = runtime.Submit(request.view());
  const Results results = TakeResults(&runtime, 1);
  for (int32_t index = 0; index < 2; ++index) {
    const SequenceResult& r = results.at({id, index});
    CHECK_EQ(r.finish_reason, ENGINERY_FINISH_LENGTH);
    CHECK(r.token_ids.empty());
    CHECK_EQ(r.num_events, 1);
  }
  CHECK(HasPromptLogprobs(request, results.at({id, 0})));
  CHECK_EQ(runtime.Stats().num_output_tokens, 0);
  CHECK_EQ(runtime.Stats().num_iterations, 1);
  CHECK_EQ(runtime.Stats().num_free_blocks, runtime.Stats().num_blocks);
}

// The first token after `prompt` that greedy draws.
int32_t FirstToken(TestRequest* request) { return Reference(request, 0).token_ids.at(0); }

TEST(stop_tokens_end_it_and_stay_only_when_asked) {
  for (const int32_t include_stop : {0, 1, 2}) {
    Fixture f;
    Runtime& runtime = f.Start();
    TestRequest request = Endless({1, 2, 3}, 5);
    const int32_t stop = FirstToken(&request);
    request.stop_token_ids = {stop};
    request.fields.include_stop = include_stop;
    request.fields.num_logprobs = 0;
    const uint64_t id = runtime.Submit(request.view());
    const SequenceResult r = TakeResults(&runtime, 1).at({id, 0});
    CHECK_EQ(r.finish_reason, ENGINERY_FINISH_STOP);
    CHECK_EQ(r.stop_token_id, stop);
    CHECK_EQ(r.token_ids.size(), include_stop == 0 ? 0 : 1);
    CHECK_EQ(r.logprobs.size(), r.token_ids.size());
    CHECK_EQ(r.text.empty(), include_stop != 1);
    CHECK_EQ(runtime.Stats().num_output_tokens, r.token_ids.size());
  }
}

// A prompt whose greedy continuation is `token`.
std::vector<int32_t> PromptBefore(int32_t token) {
  std::mt19937_64 random(11);
  for (;;) {
    const std::vector<int32_t> prompt = RandomTokens(&random, 4);
    const std::vector<float> logits = HashModel::Logits(prompt, kVocabSize);
    if (std::max_element(logits.begin(), logits.end()) - logits.begin() == token) return prompt;
  }
}

TEST(special_tokens_are_shown_only_when_asked) {
  for (const int32_t show : {0, 1}) {
    Fixture f;
    Runtime& runtime = f.Start();
    TestRequest request = Endless(PromptBefore(kEos), 1);
    request.fields.show_special_tokens = show;
    const uint64_t id = runtime.Submit(request.view());
    const SequenceResult r = TakeResults(&runtime, 1).at({id, 0});
    CHECK_EQ(r.text, show != 0 ? "<eos>" : "");
    CHECK(r.token_ids == (std::vector<int32_t>{kEos}));
    CHECK_EQ(r.finish_reason, ENGINERY_FINISH_LENGTH);
  }
}

// A character that stays incomplete becomes U+FFFD at the end, and may be what was waited for.
TEST(a_stop_string_may_be_found_at_the_very_end) {
  const int32_t half_a_character = 27;
  Fixture f;
  Runtime& runtime = f.Start();
  TestRequest request = Endless(PromptBefore(half_a_character), 1);
  const uint64_t plain = runtime.Submit(request.view());
  request.stop_strings = {"\xEF\xBF\xBD"};
  const uint64_t stopped = runtime.Submit(request.view());
  const Results results = TakeResults(&runtime, 2);
  CHECK_EQ(results.at({plain, 0}).text, "\xEF\xBF\xBD");
  CHECK_EQ(results.at({plain, 0}).finish_reason, ENGINERY_FINISH_LENGTH);
  CHECK_EQ(results.at({stopped, 0}).text, "");
  CHECK_EQ(results.at({stopped, 0}).finish_reason, ENGINERY_FINISH_STOP);
  CHECK_EQ(results.at({stopped, 0}).stop_string, "\xEF\xBF\xBD");
}

TEST(the_end_token_ends_it_unless_ignored) {
  Fixture f;
  Runtime& runtime = f.Start();
  TestRequest request(PromptBefore(kEos), 9);
  const uint64_t id = runtime.Submit(request.view());
  const SequenceResult r = TakeResults(&runtime, 1).at({id, 0});
  CHECK_EQ(r.finish_reason, ENGINERY_FINISH_END_ID);
  CHECK_EQ(r.stop_token_id, kEos);
  CHECK(r.token_ids.empty());
}

TEST(nan_ends_its_request_and_no_other) {
  Fixture f;
  f.executor.nan_token = 35;
  Runtime& runtime = f.Start();
  TestRequest good = Endless({1, 2, 3}, 5);
  good.fields.logit_bias = nullptr;
  TestRequest bad = Endless({1, 2, 35}, 5);
  bad.fields.num_return_sequences = 3;
  const uint64_t good_id = runtime.Submit(good.view());
  const uint64_t bad_id = runtime.Submit(bad.view());
  const Results results = TakeResults(&runtime, 2);
  for (int32_t index = 0; index < 3; ++index) {
    const SequenceResult& r = results.at({bad_id, index});
    CHECK_EQ(r.finish_reason, ENGINERY_FINISH_ERROR);
    CHECK_EQ(r.status, ENGINERY_EXECUTOR_FAILED);
    CHECK(r.error.find("position 3") != std::string::npos);
    CHECK_EQ(r.is_last, index == 2);
  }
  CHECK_EQ(results.at({good_id, 0}).token_ids.size(), 5);
  CHECK_EQ(runtime.Stats().num_free_blocks, runtime.Stats().num_blocks);
}

// One sequence of two meets NaN: the request ends at once, and its other sequence, which stands
// behind in the same step, tells nothing more.
TEST(nan_in_one_sequence_ends_its_siblings_once) {
  TestRequest request = Endless({1, 2, 3}, 5);
  request.fields.num_return_sequences = 2;
  request.fields.temperature = 1.0f;
  const auto first_of = [&](int32_t index) { return Reference(&request, index).token_ids.at(0); };
  while (first_of(0) == first_of(1)) ++request.fields.seed;
  Fixture f;
  f.executor.nan_token = first_of(0);
  Runtime& runtime = f.Start();
  const uint64_t id = runtime.Submit(request.view());
  const Results results = TakeResults(&runtime, 1);
  for (int32_t index = 0; index < 2; ++index) {
    const SequenceResult& r = results.at({id, index});
    CHECK_EQ(r.finish_reason, ENGINERY_FINISH_ERROR);
    CHECK(r.token_ids == (std::vector<int32_t>{first_of(index)}));
    CHECK_EQ(r.num_events, 2);
  }
  runtime.Shutdown(true, std::nullopt);
  Events events;
  CHECK(!runtime.Poll(milliseconds(0), &events));
}

TEST(a_failing_step_ends_its_requests_and_the_loop_goes_on) {
  Fixture f;
  f.executor.failing_token = 35;
  Runtime& runtime = f.Start();
  TestRequest bad = Endless({1, 35}, 5);
  const uint64_t bad_id = runtime.Submit(bad.view());
  const SequenceResult r = TakeResults(&runtime, 1).at({bad_id, 0});
  CHECK_EQ(r.finish_reason, ENGINERY_FINISH_ERROR);
  CHECK_EQ(r.status, ENGINERY_EXECUTOR_FAILED);
  CHECK(r.error.find("told to fail") != std::string::npos);
  TestRequest good = Endless({1, 2, 3}, 5);
  const uint64_t good_id = runtime.Submit(good.view());
  CHECK(TakeResults(&runtime, 1).at({good_id, 0}).token_ids == Reference(&good, 0).token_ids);
  CHECK_EQ(runtime.Stats().num_free_blocks, runtime.Stats().num_blocks);
}

TEST(logits_are_spared_where_nobody_reads_them) {
  Fixture f;
  f.executor.samples_greedy = true;
  f.executor.spares_logits = true;
  Runtime& runtime = f.Start();
  TestRequest plain = Endless({1, 2, 3}, 4);
  const uint64_t plain_id = runtime.Submit(plain.view());
  CHECK(TakeResults(&runtime, 1).at({plain_id, 0}).token_ids == Reference(&plain, 0).token_ids);
  CHECK_EQ(f.executor.num_spared_steps, 4);

  // The row that the token is drawn from is the only one, and it is wanted.
  TestRequest context = Endless({5}, 2);
  context.fields.return_context_logits = 1;
  const uint64_t context_id = runtime.Submit(context.view());
  const SequenceResult r = TakeResults(&runtime, 1).at({context_id, 0});
  CHECK_EQ(r.status, ENGINERY_OK);
  const std::vector<int32_t> prompt = {5};
  CHECK(r.context_logits == HashModel::Logits(prompt, kVocabSize));
  CHECK_EQ(f.executor.num_spared_steps, 5);  // its second token
}

TEST(logits_that_are_needed_and_absent_end_the_request) {
  Fixture f;
  f.executor.samples_greedy = true;
  f.executor.forgets_logits = true;
  Runtime& runtime = f.Start();
  const auto error_of = [&](TestRequest request) {
    const uint64_t id = runtime.Submit(request.view());
    const SequenceResult r = TakeResults(&runtime, 1).at({id, 0});
    CHECK_EQ(r.finish_reason, ENGINERY_FINISH_ERROR);
    CHECK_EQ(r.status, ENGINERY_EXECUTOR_FAILED);
    return r.error;
  };
  TestRequest drawn = Endless({1, 2}, 3);
  drawn.fields.temperature = 1.0f;  // the fake executor gives -1
  CHECK(error_of(drawn).find("neither logits nor a token") != std::string::npos);
  TestRequest host_only = Endless({1, 2}, 3);
  host_only.fields.num_logprobs = 0;
  CHECK(error_of(host_only).find("host_only") != std::string::npos);
  TestRequest context = Endless({1, 2, 3}, 3);
  context.fields.return_context_logits = 1;
  CHECK(error_of(context).find("needs those of the prompt's positions 0..2") != std::string::npos);
  TestRequest scored = Endless({1, 2, 3}, 3);
  scored.fields.return_prompt_logprobs = 1;
  CHECK(error_of(scored).find("needs those of the prompt's positions 0..1") != std::string::npos);
}

// What a failed step may have half written is not found as a prefix later.
TEST(nothing_of_a_failed_step_is_reused) {
  Fixture f;
  f.executor.failing_token = 35;
  Runtime& runtime = f.Start();
  TestRequest bad = Endless({1, 2, 3, 4, 5, 6, 7, 8, 35}, 5);
  runtime.Submit(bad.view());
  TakeResults(&runtime, 1);
  TestRequest good = Endless({1, 2, 3, 4, 5, 6, 7, 8, 9}, 5);
  const uint64_t id = runtime.Submit(good.view());
  CHECK_EQ(TakeResults(&runtime, 1).at({id, 0}).num_reused_tokens, 0);
}

TEST(a_request_that_bans_everything_ends_with_an_error) {
  Fixture f;
  Runtime& runtime = f.Start();
  std::vector<enginery_logit_bias> bias;
  for (int32_t id = 0; id < kVocabSize; ++id) bias.push_back({id, -1.0f / 0.0f});
  TestRequest request = Endless({1}, 5);
  enginery_request fields = request.view();
  fields.logit_bias = bias.data();
  fields.num_logit_bias = bias.size();
  const uint64_t id = runtime.Submit(fields);
  const SequenceResult r = TakeResults(&runtime, 1).at({id, 0});
  CHECK_EQ(r.finish_reason, ENGINERY_FINISH_ERROR);
  CHECK_EQ(r.status, ENGINERY_INVALID_ARGUMENT);
  CHECK(r.error.find("logit_bias") != std::string::npos);
}

TEST(what_can_never_fit_is_refused_on_submit) {
  FixtureOptions options;
  options.num_blocks = 5;  // 20 tokens
  Fixture f(options);
  Runtime& runtime = f.Start();
  TestRequest fits = Endless({1, 2, 3}, 18);  // KV of 20 tokens
  CHECK_EQ(StatusOf([&] { runtime.Submit(fits.view()); }), ENGINERY_OK);
  TestRequest too_long = Endless({1, 2, 3}, 19);
  CHECK_THROWS_WITH(runtime.Submit(too_long.view()), Error, "kv_cache_bytes");
  TestRequest too_many = Endless({1, 2, 3}, 10);
  too_many.fields.num_return_sequences = 2;
  CHECK_THROWS_WITH(runtime.Submit(too_many.view()), Error, "it needs 6 KV blocks");
}

TEST(cancel_ends_waiting_and_running_requests) {
  FixtureOptions options;
  options.max_batch_size = 1;
  Fixture f(options);
  Gate gate;
  gate.AttachTo(&f.executor);
  Runtime& runtime = f.Start();
  TestRequest request = Endless({1, 2, 3}, 100);
  const uint64_t running = runtime.Submit(request.view());
  gate.WaitUntilReached();
  const uint64_t waiting = runtime.Submit(request.view());
  runtime.Cancel(running);
  runtime.Cancel(waiting);
  CHECK_EQ(StatusOf([&] { runtime.Cancel(12345); }), ENGINERY_NOT_FOUND);
  gate.Open();
  const Results results = TakeResults(&runtime, 2);
  CHECK_EQ(results.at({running, 0}).finish_reason, ENGINERY_FINISH_CANCELLED);
  CHECK_EQ(results.at({waiting, 0}).finish_reason, ENGINERY_FINISH_CANCELLED);
  CHECK_EQ(results.at({waiting, 0}).token_ids.size(), 0);
  runtime.Shutdown(true, std::nullopt);
  CHECK_EQ(StatusOf([&] { runtime.Cancel(running); }), ENGINERY_NOT_FOUND);
  CHECK_EQ(runtime.Stats().num_free_blocks, runtime.Stats().num_blocks);
}

TEST(a_deadline_ends_waiting_and_running_requests) {
  FixtureOptions options;
  options.max_batch_size = 1;
  Fixture f(options);
  Gate gate;
  gate.AttachTo(&f.executor);
  Runtime& runtime = f.Start();
  TestRequest request = Endless({1, 2, 3}, 100);
  // Long enough for the first step to begin on a busy machine: it waits at the gate.
  constexpr int64_t kTimeoutMs = 2000;
  request.fields.timeout_ms = kTimeoutMs;
  const uint64_t running = runtime.Submit(request.view());
  gate.WaitUntilReached();
  request.fields.timeout_ms = 1;
  const uint64_t waiting = runtime.Submit(request.view());
  std::this_thread::sleep_for(milliseconds(kTimeoutMs + 5));
  gate.Open();
  const Results results = TakeResults(&runtime, 2);
  CHECK_EQ(results.at({running, 0}).finish_reason, ENGINERY_FINISH_TIMEOUT);
  CHECK_EQ(results.at({running, 0}).token_ids.size(), 1);
  CHECK_EQ(results.at({waiting, 0}).finish_reason, ENGINERY_FINISH_TIMEOUT);
}

TEST(the_queue_is_bounded) {
  FixtureOptions options;
  options.max_batch_size = 1;
  options.max_queue_size = 2;
  Fixture f(options);
  Gate gate;
  gate.AttachTo(&f.executor);
  Runtime& runtime = f.Start();
  TestRequest request = Endless({1, 2, 3}, 5);
  runtime.Submit(request.view());
  gate.WaitUntilReached();
  // The counters are those of the last step's end: the first still counts as waiting, or not.
  int num_taken = 1;
  enginery_status status = ENGINERY_OK;
  while (num_taken < 10 && status == ENGINERY_OK) {
    status = StatusOf([&] { runtime.Submit(request.view()); });
    num_taken += status == ENGINERY_OK ? 1 : 0;
  }
  CHECK_EQ(status, ENGINERY_QUEUE_FULL);
  CHECK(num_taken == 2 || num_taken == 3);
  gate.Open();
  TakeResults(&runtime, static_cast<size_t>(num_taken));
  CHECK_EQ(StatusOf([&] { runtime.Submit(request.view()); }), ENGINERY_OK);
}

TEST(ten_thousand_requests_at_once) {
  Fixture f;
  Runtime& runtime = f.Start();
  std::mt19937_64 random(3);
  std::vector<TestRequest> requests;
  std::vector<uint64_t> ids;
  for (int i = 0; i < 10'000; ++i) {
    requests.push_back(
        Endless(RandomTokens(&random, 1 + random() % 4), 1 + static_cast<int64_t>(random() % 3)));
    ids.push_back(runtime.Submit(requests.back().view()));
  }
  const Results results = TakeResults(&runtime, ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    REQUIRE(results.at({ids[i], 0}).token_ids == Reference(&requests[i], 0).token_ids);
  }
  CHECK_EQ(runtime.Stats().num_finished, 10'000);
}

TEST(a_slow_handler_delays_nobody) {
  std::atomic<bool> may_go_on = false;
  std::atomic<int> num_ended = 0;
  Fixture f({}, [&](const enginery_event& event) {
    while (!may_go_on) std::this_thread::sleep_for(milliseconds(1));
    num_ended += event.is_last != 0 ? 1 : 0;
  });
  Runtime& runtime = f.Start();
  TestRequest request = Endless({1, 2, 3}, 50);
  for (int i = 0; i < 20; ++i) runtime.Submit(request.view());
  // All of them end while the handler still sits in its first event.
  while (runtime.Stats().num_finished < 20) std::this_thread::sleep_for(milliseconds(1));
  CHECK_EQ(num_ended.load(), 0);
  may_go_on = true;
  f.runtime.reset();  // delivers the rest
  CHECK_EQ(num_ended.load(), 20);
}

TEST(a_handler_may_submit_and_cancel) {
  Runtime* runtime = nullptr;
  TestRequest request = Endless({1, 2, 3}, 3);
  std::atomic<int> num_ended = 0;
  Fixture f({}, [&](const enginery_event& event) {
    if (event.is_last == 0) return;
    if (++num_ended < 5) {
      const uint64_t id = runtime->Submit(request.view());
      if (num_ended % 2 == 0) StatusOf([&] { runtime->Cancel(id); });
    }
  });
  runtime = &f.Start();
  runtime->Submit(request.view());
  while (num_ended < 5) std::this_thread::sleep_for(milliseconds(1));
  Events events;
  CHECK_THROWS_WITH(runtime->Poll(milliseconds(0), &events), Error, "on_event");
}

TEST(poll_waits_no_longer_than_it_may) {
  Fixture f;
  Runtime& runtime = f.Start();
  Events events;
  CHECK(runtime.Poll(milliseconds(0), &events));
  CHECK(events.empty());
  CHECK(runtime.Poll(milliseconds(2), &events));
  CHECK(events.empty());
}

TEST(shutdown_drains) {
  Fixture f;
  Runtime& runtime = f.Start();
  TestRequest request = Endless({1, 2, 3}, 50);
  const uint64_t id = runtime.Submit(request.view());
  runtime.Shutdown(true, std::nullopt);
  CHECK_EQ(StatusOf([&] { runtime.Submit(request.view()); }), ENGINERY_SHUT_DOWN);
  Events events;
  Results results;
  while (runtime.Poll(std::nullopt, &events)) {
    for (const auto& event : events) AddEvent(event->view, &results);
  }
  CHECK_EQ(results.at({id, 0}).token_ids.size(), 50);
  CHECK(!runtime.Poll(milliseconds(0), &events));
}

TEST(shutdown_cancels_when_told_or_when_time_is_up) {
  for (const bool drain : {false, true}) {
    Fixture f;
    Gate gate;
    gate.AttachTo(&f.executor);
    Runtime& runtime = f.Start();
    TestRequest request = Endless({1, 2, 3}, 100);
    const uint64_t id = runtime.Submit(request.view());
    gate.WaitUntilReached();
    std::thread opener([&] {
      std::this_thread::sleep_for(milliseconds(20));
      gate.Open();
    });
    runtime.Shutdown(drain, milliseconds(1));
    opener.join();
    Events events;
    Results results;
    while (runtime.Poll(std::nullopt, &events)) {
      for (const auto& event : events) AddEvent(event->view, &results);
    }
    CHECK_EQ(results.at({id, 0}).finish_reason, ENGINERY_FINISH_CANCELLED);
  }
}

TEST(destruction_under_load) {
  for (int round = 0; round < 20; ++round) {
    Fixture f;
    Runtime& runtime = f.Start();
    TestRequest request = Endless({1, 2, 3}, 100);
    for (int i = 0; i < 30; ++i) runtime.Submit(request.view());
  }
}

TEST(many_threads_submit_cancel_and_poll) {
  Fixture f;
  Runtime& runtime = f.Start();
  std::atomic<int> num_submitted = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      TestRequest request = Endless({1, t, 3}, 10);
      for (int i = 0; i < 100; ++i) {
        const uint64_t id = runtime.Submit(request.view());
        ++num_submitted;
        if (i % 3 == 0) StatusOf([&] { runtime.Cancel(id); });
        if (i % 10 == 0) runtime.IterationsJson();
      }
    });
  }
  const Results results = TakeResults(&runtime, 400);
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(results.size(), 400);
  CHECK_EQ(runtime.Stats().num_free_blocks, runtime.Stats().num_blocks);
}

TEST(the_last_iterations_are_kept) {
  Fixture f;
  Runtime& runtime = f.Start();
  CHECK_EQ(runtime.IterationsJson(), "[]");
  TestRequest request = Endless({1, 2, 3}, 25);
  runtime.Submit(request.view());
  TakeResults(&runtime, 1);
  const std::string json = runtime.IterationsJson();
  CHECK(json.starts_with("[{\"iteration\":15,"));
  CHECK(json.find("\"iteration\":24,") != std::string::npos);
  CHECK(json.find("\"num_prefill_tokens\":0,\"num_decode_tokens\":1,") != std::string::npos);
}

TEST(what_the_executor_says_of_itself_is_checked) {
  Fixture f;
  FakeExecutor other(kVocabSize + 1, 10);
  CHECK_THROWS_WITH(Runtime(f.config, other.table(), nullptr), Error, "vocab_size is 38");
  FakeExecutor empty(kVocabSize, 0);
  CHECK_THROWS_WITH(Runtime(f.config, empty.table(), nullptr), Error, "num_blocks is 0");
  CHECK_EQ(other.num_destroyed + empty.num_destroyed, 0);  // they were never taken over
}

}  // namespace
}  // namespace enginery::test
