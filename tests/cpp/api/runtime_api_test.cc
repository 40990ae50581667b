// SPDX-License-Identifier: Apache-2.0
//
// The C interface of the runtime as a C program uses it: on a tiny engine that the builder wrote,
// with the built-in executor and with one of the caller's.
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <future>
#include <iterator>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "enginery/enginery.h"
#include "support/fake_executor.h"
#include "support/gate.h"
#include "support/temp_dir.h"

namespace enginery::test {
namespace {

bool LastErrorHas(const std::string& part) {
  const bool has = std::string(enginery_last_error()).find(part) != std::string::npos;
  if (!has) std::cerr << "  last error: " << enginery_last_error() << "\n";
  return has;
}

constexpr const char* kEngine = "tests/golden/engine/qwen2_int8_dynamic.engine";
constexpr int64_t kVocabSize = 320;

class TinyRuntime {
 public:
  TinyRuntime() {
    REQUIRE_EQ(enginery_engine_open(kEngine, &engine_), ENGINERY_OK);
    enginery_runtime_options_init(&options, sizeof options);
    options.num_threads = 1;
    options.kv_cache_bytes = 1 << 20;
  }
  ~TinyRuntime() {
    enginery_runtime_destroy(runtime_);
    enginery_engine_close(engine_);
  }
  enginery_runtime* Start() {
    REQUIRE_EQ(enginery_runtime_create(engine_, &options, &runtime_), ENGINERY_OK);
    return runtime_;
  }
  void Destroy() {
    enginery_runtime_destroy(runtime_);
    runtime_ = nullptr;
  }
  enginery_engine* engine() { return engine_; }

  enginery_runtime_options options;

 private:
  enginery_engine* engine_ = nullptr;
  enginery_runtime* runtime_ = nullptr;
};

const int32_t kPrompt[] = {3, 4, 5};

enginery_request MakeRequest(int64_t max_tokens) {
  enginery_request request;
  enginery_request_init(&request, sizeof request);
  request.prompt_token_ids = kPrompt;
  request.num_prompt_tokens = 3;
  request.max_tokens = max_tokens;
  request.temperature = 0.0f;
  request.ignore_eos = 1;
  return request;
}

struct Ending {
  std::vector<int32_t> token_ids;
  int32_t finish_reason = ENGINERY_FINISH_NONE;
};

Ending Drain(enginery_runtime* runtime) {
  Ending ending;
  while (ending.finish_reason == ENGINERY_FINISH_NONE) {
    enginery_events* events = nullptr;
    REQUIRE_EQ(enginery_runtime_poll(runtime, 60'000, &events), ENGINERY_OK);
    REQUIRE(enginery_events_count(events) > 0);
    for (uint64_t i = 0; i < enginery_events_count(events); ++i) {
      const enginery_event* e = enginery_events_get(events, i);
      ending.token_ids.insert(ending.token_ids.end(), e->token_ids,
                              e->token_ids + e->num_token_ids);
      ending.finish_reason = e->finish_reason;
    }
    CHECK(enginery_events_get(events, enginery_events_count(events)) == nullptr);
    enginery_events_free(events);
  }
  return ending;
}

TEST(a_request_from_end_to_end) {
  TinyRuntime tiny;
  enginery_runtime* runtime = tiny.Start();
  const std::string name = enginery_runtime_executor_name(runtime);
  CHECK(name == "portable" || name == "avx2" || name == "avx512" || name == "amx");
  const enginery_request request = MakeRequest(6);
  uint64_t first = 0;
  REQUIRE_EQ(enginery_runtime_submit(runtime, &request, &first), ENGINERY_OK);
  const Ending one = Drain(runtime);
  CHECK_EQ(one.token_ids.size(), 6);
  CHECK_EQ(one.finish_reason, ENGINERY_FINISH_LENGTH);
  uint64_t second = 0;
  REQUIRE_EQ(enginery_runtime_submit(runtime, &request, &second), ENGINERY_OK);
  CHECK_NE(first, second);
  CHECK(Drain(runtime).token_ids == one.token_ids);
  CHECK_EQ(enginery_runtime_cancel(runtime, first), ENGINERY_NOT_FOUND);

  enginery_stats stats;
  stats.abi_size = sizeof stats;
  REQUIRE_EQ(enginery_runtime_stats(runtime, &stats), ENGINERY_OK);
  CHECK_EQ(stats.num_requests, 2);
  CHECK_EQ(stats.num_finished, 2);
  CHECK_EQ(stats.num_output_tokens, 12);
  CHECK_EQ(stats.num_free_blocks, stats.num_blocks);
  CHECK(stats.block_bytes > 0);
  char* json = nullptr;
  REQUIRE_EQ(enginery_runtime_iterations_json(runtime, &json), ENGINERY_OK);
  CHECK(std::string(json).starts_with("[{\"iteration\":0,\"start_ns\":"));
  enginery_string_free(json);

  REQUIRE_EQ(enginery_runtime_shutdown(runtime, 1, -1), ENGINERY_OK);
  CHECK_EQ(enginery_runtime_submit(runtime, &request, &first), ENGINERY_SHUT_DOWN);
  enginery_events* events = nullptr;
  CHECK_EQ(enginery_runtime_poll(runtime, 0, &events), ENGINERY_SHUT_DOWN);
  CHECK(events == nullptr);
}

// What the serving loop asks for does not show in what the model gives: chunks and policies on the
// real executor.
TEST(options_do_not_change_results) {
  std::vector<int32_t> expected;
  for (const int64_t chunk : {0, 1, 2}) {
    for (int32_t policy = 0; policy < 3; ++policy) {
      TinyRuntime tiny;
      tiny.options.max_chunk_tokens = chunk;
      tiny.options.policy = policy;
      enginery_runtime* runtime = tiny.Start();
      enginery_request request = MakeRequest(12);
      request.temperature = 2.0f;
      request.seed = 7;
      uint64_t id = 0;
      REQUIRE_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_OK);
      const Ending ending = Drain(runtime);
      if (expected.empty()) expected = ending.token_ids;
      CHECK(ending.token_ids == expected);
    }
  }
}

// The cpu executor draws greedy tokens itself, the sampler those whose logprobs are asked for.
TEST(greedy_tokens_are_the_same_whoever_draws_them) {
  TinyRuntime tiny;
  tiny.options.num_threads = 2;
  enginery_runtime* runtime = tiny.Start();
  const auto tokens_of = [&](const enginery_request& request) {
    uint64_t id = 0;
    REQUIRE_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_OK);
    return Drain(runtime).token_ids;
  };
  enginery_request request = MakeRequest(12);
  const std::vector<int32_t> expected = tokens_of(request);
  CHECK_EQ(expected.size(), 12);
  request.num_logprobs = 0;
  CHECK(tokens_of(request) == expected);
  request.temperature = 1.5f;
  request.top_k = 1;
  CHECK(tokens_of(request) == expected);
  request.num_logprobs = -1;
  CHECK(tokens_of(request) == expected);
}

TEST(events_outlive_the_runtime) {
  TinyRuntime tiny;
  enginery_runtime* runtime = tiny.Start();
  const enginery_request request = MakeRequest(1);
  uint64_t id = 0;
  REQUIRE_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_OK);
  enginery_events* events = nullptr;
  REQUIRE_EQ(enginery_runtime_poll(runtime, -1, &events), ENGINERY_OK);
  tiny.Destroy();
  REQUIRE_EQ(enginery_events_count(events), 1);
  CHECK_EQ(enginery_events_get(events, 0)->num_token_ids, 1);
  enginery_events_free(events);
}

TEST(callbacks_get_the_events) {
  TinyRuntime tiny;
  Ending ending;
  tiny.options.user = &ending;
  tiny.options.on_event = [](void* user, const enginery_event* event) {
    auto* to = static_cast<Ending*>(user);
    to->token_ids.insert(to->token_ids.end(), event->token_ids,
                         event->token_ids + event->num_token_ids);
    to->finish_reason = event->finish_reason;
  };
  enginery_runtime* runtime = tiny.Start();
  enginery_events* events = nullptr;
  CHECK_EQ(enginery_runtime_poll(runtime, 0, &events), ENGINERY_INVALID_ARGUMENT);
  const enginery_request request = MakeRequest(4);
  uint64_t id = 0;
  REQUIRE_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_OK);
  REQUIRE_EQ(enginery_runtime_shutdown(runtime, 1, -1), ENGINERY_OK);
  tiny.Destroy();  // after it, every event was delivered
  CHECK_EQ(ending.token_ids.size(), 4);
  CHECK_EQ(ending.finish_reason, ENGINERY_FINISH_LENGTH);
}

TEST(an_executor_of_the_caller) {
  TinyRuntime tiny;
  FakeExecutor executor(kVocabSize, 20);
  const enginery_executor table = executor.table();
  tiny.options.executor = &table;
  enginery_runtime* runtime = tiny.Start();
  CHECK_EQ(std::string(enginery_runtime_executor_name(runtime)), "custom");
  const enginery_request request = MakeRequest(5);
  uint64_t id = 0;
  REQUIRE_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_OK);
  CHECK_EQ(Drain(runtime).token_ids.size(), 5);
  CHECK(executor.errors.empty());
  tiny.Destroy();
  CHECK_EQ(executor.num_destroyed, 1);

  enginery_executor incomplete = table;
  incomplete.collect = nullptr;
  tiny.options.executor = &incomplete;
  enginery_runtime* none = nullptr;
  CHECK_EQ(enginery_runtime_create(tiny.engine(), &tiny.options, &none), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("executor.collect is NULL"));
  incomplete = table;
  incomplete.abi_size = 0;
  CHECK_EQ(enginery_runtime_create(tiny.engine(), &tiny.options, &none), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("abi_size"));
  CHECK(none == nullptr);
}

TEST(options_are_refused_with_their_name) {
  TinyRuntime tiny;
  const enginery_runtime_options good = tiny.options;
  const auto status = [&] {
    enginery_runtime* runtime = nullptr;
    const enginery_status s = enginery_runtime_create(tiny.engine(), &tiny.options, &runtime);
    CHECK(runtime == nullptr);
    enginery_runtime_destroy(runtime);
    tiny.options = good;
    return s;
  };
  tiny.options.max_batch_size = 65;
  CHECK_EQ(status(), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("max_batch_size is 65; accepted: 0..64"));
  tiny.options.num_threads = -1;
  CHECK_EQ(status(), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("num_threads is -1"));
  tiny.options.isa = "sse9";
  CHECK_EQ(status(), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("sse9"));
  tiny.options.pin_threads = 2;
  CHECK_EQ(status(), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("pin_threads is 2; accepted: 0..1"));
  tiny.options.pin_threads = 1;
  tiny.options.num_threads = 1000;
  CHECK_EQ(status(), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("1000 threads"));
  tiny.options.abi_size = 0;
  CHECK_EQ(status(), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("enginery_runtime_options.abi_size is 0"));
  CHECK_EQ(enginery_runtime_create(nullptr, &good, nullptr), ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(enginery_runtime_create(tiny.engine(), &good, nullptr), ENGINERY_INVALID_ARGUMENT);
}

TEST(callers_of_other_versions) {
  TinyRuntime tiny;
  // Older: knows the options up to kv_cache_bytes only.
  tiny.options.abi_size = 16;
  tiny.options.max_batch_size = 12345;  // beyond what it knows: not read
  enginery_runtime* runtime = tiny.Start();
  // Older: a request up to max_tokens.
  enginery_request request = MakeRequest(2);
  request.abi_size = offsetof(enginery_request, min_tokens);
  request.temperature = -5.0f;
  uint64_t id = 0;
  REQUIRE_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_OK);
  Drain(runtime);
  // Newer: more members than there are here.
  struct Newer {
    enginery_request request;
    int64_t added[4];
  } newer = {};
  enginery_request_init(&newer.request, sizeof newer);
  CHECK_EQ(newer.request.abi_size, sizeof newer);
  newer.request.prompt_token_ids = kPrompt;
  newer.request.num_prompt_tokens = 3;
  REQUIRE_EQ(enginery_runtime_submit(runtime, &newer.request, &id), ENGINERY_OK);
  Drain(runtime);
  newer.added[2] = 1;
  CHECK_EQ(enginery_runtime_submit(runtime, &newer.request, &id), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("does not have"));
  // Sizes that cannot be.
  for (const uint64_t size : {uint64_t{0}, uint64_t{7}, UINT64_MAX}) {
    request.abi_size = size;
    CHECK_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_INVALID_ARGUMENT);
    enginery_stats stats;
    stats.abi_size = size;
    CHECK_EQ(enginery_runtime_stats(runtime, &stats), ENGINERY_INVALID_ARGUMENT);
    enginery_request untouched;
    std::memset(&untouched, 0x5a, sizeof untouched);
    enginery_request_init(&untouched, size);
    CHECK_EQ(untouched.max_tokens, 0x5a5a5a5a5a5a5a5a);
  }
  // A small struct of counters is filled as far as it goes.
  uint64_t small[3] = {sizeof small, 99, 99};
  REQUIRE_EQ(enginery_runtime_stats(runtime, reinterpret_cast<enginery_stats*>(small)),
             ENGINERY_OK);
  CHECK_EQ(small[0], sizeof small);
  CHECK(small[1] > 0);
}

TEST(bad_requests_are_refused_and_the_loop_goes_on) {
  TinyRuntime tiny;
  enginery_runtime* runtime = tiny.Start();
  uint64_t id = 0;
  enginery_request request = MakeRequest(5);
  request.top_k = -1;
  CHECK_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("top_k is -1"));
  request = MakeRequest(5);
  request.temperature = std::numeric_limits<float>::quiet_NaN();
  CHECK_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_INVALID_ARGUMENT);
  request = MakeRequest(510);  // 3 + 510 > 512
  CHECK_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("max_tokens is 510; accepted: 0..509"));
  CHECK_EQ(enginery_runtime_submit(runtime, nullptr, &id), ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(enginery_runtime_submit(nullptr, &request, &id), ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(id, 0);
  request = MakeRequest(5);
  CHECK_EQ(enginery_runtime_submit(runtime, &request, nullptr), ENGINERY_INVALID_ARGUMENT);
  REQUIRE_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_OK);
  CHECK_EQ(Drain(runtime).token_ids.size(), 5);
}

TEST(null_handles_are_harmless) {
  enginery_runtime_destroy(nullptr);
  enginery_events_free(nullptr);
  CHECK_EQ(enginery_events_count(nullptr), 0);
  CHECK(enginery_events_get(nullptr, 0) == nullptr);
  CHECK_EQ(enginery_runtime_cancel(nullptr, 1), ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(enginery_runtime_shutdown(nullptr, 1, 0), ENGINERY_INVALID_ARGUMENT);
  enginery_events* events = nullptr;
  CHECK_EQ(enginery_runtime_poll(nullptr, 0, &events), ENGINERY_INVALID_ARGUMENT);
  TinyRuntime tiny;
  enginery_runtime* runtime = tiny.Start();
  CHECK_EQ(enginery_runtime_poll(runtime, -2, &events), ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(enginery_runtime_shutdown(runtime, 2, 0), ENGINERY_INVALID_ARGUMENT);
}

std::vector<enginery_profile_record> Records(const enginery_profile* profile) {
  std::vector<enginery_profile_record> records;
  for (uint64_t i = 0; i < enginery_profile_count(profile); ++i) {
    records.push_back(*enginery_profile_get(profile, i));
  }
  CHECK(enginery_profile_get(profile, records.size()) == nullptr);
  return records;
}

TEST(a_profile_of_the_steps) {
  TinyRuntime tiny;
  enginery_runtime* runtime = tiny.Start();
  const enginery_request request = MakeRequest(4);
  uint64_t id = 0;
  enginery_profile* profile = nullptr;
  REQUIRE_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_OK);
  const std::vector<int32_t> unmeasured = Drain(runtime).token_ids;
  REQUIRE_EQ(enginery_runtime_profile(runtime, &profile), ENGINERY_OK);
  CHECK_EQ(enginery_profile_count(profile), 0);  // off by default
  enginery_profile_free(profile);

  REQUIRE_EQ(enginery_runtime_set_profiling(runtime, 1), ENGINERY_OK);
  REQUIRE_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_OK);
  CHECK(Drain(runtime).token_ids == unmeasured);
  REQUIRE_EQ(enginery_runtime_set_profiling(runtime, 0), ENGINERY_OK);
  REQUIRE_EQ(enginery_runtime_profile(runtime, &profile), ENGINERY_OK);
  tiny.Destroy();  // a profile may outlive it
  int num_lm_heads = 0;
  for (const enginery_profile_record& record : Records(profile)) {
    CHECK_GE(record.iteration, 4);
    CHECK_LT(record.iteration, 8);
    if (record.role != std::string("lm_head")) continue;
    ++num_lm_heads;
    CHECK_EQ(record.op, std::string("linear"));
    CHECK_EQ(record.num_calls, 1);
    CHECK_GT(record.bytes, 0);
    CHECK_EQ(record.operations % (2 * kVocabSize), 0);
  }
  CHECK_EQ(num_lm_heads, 4);  // a step per token
  enginery_profile_free(profile);
}

TEST(profiles_that_cannot_be_had) {
  TinyRuntime tiny;
  enginery_runtime* runtime = tiny.Start();
  CHECK_EQ(enginery_runtime_set_profiling(runtime, 2), ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(enginery_runtime_profile(runtime, nullptr), ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(enginery_runtime_set_profiling(nullptr, 1), ENGINERY_INVALID_ARGUMENT);
  enginery_profile_free(nullptr);
  CHECK_EQ(enginery_profile_count(nullptr), 0);

  FakeExecutor executor(kVocabSize, 64);
  const enginery_executor table = executor.table();
  TinyRuntime other;
  other.options.executor = &table;
  runtime = other.Start();
  enginery_profile* profile = nullptr;
  CHECK_EQ(enginery_runtime_set_profiling(runtime, 1), ENGINERY_NOT_SUPPORTED);
  CHECK_EQ(enginery_runtime_profile(runtime, &profile), ENGINERY_NOT_SUPPORTED);
  CHECK(LastErrorHas("built-in"));
  CHECK(profile == nullptr);
  other.Destroy();
}

TEST(a_stall_is_told_to_whoever_asked_for_it) {
  const TempDir directory;
  FakeExecutor executor(kVocabSize, 20);
  Gate gate;
  gate.AttachTo(&executor);
  const enginery_executor table = executor.table();
  std::promise<std::string> path;
  TinyRuntime tiny;
  tiny.options.executor = &table;
  tiny.options.watchdog_timeout_ms = 10;
  const std::string folder = directory.path();
  tiny.options.watchdog_dir = folder.c_str();
  tiny.options.user = &path;
  tiny.options.on_stall = [](void* user, const char* file, const char* message) {
    CHECK(std::string(message).find(file) != std::string::npos);
    static_cast<std::promise<std::string>*>(user)->set_value(file);
  };
  enginery_runtime* runtime = tiny.Start();
  enginery_request request = MakeRequest(1);
  const std::string name = "chat-7";
  request.client_request_id = {name.data(), name.size()};
  uint64_t id = 0;
  REQUIRE_EQ(enginery_runtime_submit(runtime, &request, &id), ENGINERY_OK);
  std::ifstream file(path.get_future().get());
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  CHECK(text.find("\"client_request_id\":\"chat-7\"") != std::string::npos);
  CHECK(text.find("\"architecture\":\"Qwen2ForCausalLM\"") != std::string::npos);
  CHECK(text.find("\"executor\":\"custom\"") != std::string::npos);
  gate.Open();
  CHECK_EQ(Drain(runtime).token_ids.size(), 1);
  tiny.Destroy();

  tiny.options.watchdog_dir = "/nowhere";
  CHECK_EQ(enginery_runtime_create(tiny.engine(), &tiny.options, &runtime),
           ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("watchdog_dir is /nowhere"));
  tiny.options.watchdog_timeout_ms = -1;
  CHECK_EQ(enginery_runtime_create(tiny.engine(), &tiny.options, &runtime),
           ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("watchdog_timeout_ms is -1"));
}

TEST(limits_of_the_machine) {
  enginery_machine_limits limits{};
  CHECK_EQ(enginery_measure_limits("portable", 1, &limits), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("abi_size"));
  limits.abi_size = sizeof limits;
  CHECK_EQ(enginery_measure_limits("mmx", 1, &limits), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("mmx"));
  CHECK_EQ(enginery_measure_limits("portable", -1, &limits), ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(enginery_measure_limits("portable", 1, nullptr), ENGINERY_INVALID_ARGUMENT);
  REQUIRE_EQ(enginery_measure_limits("portable", 1, &limits), ENGINERY_OK);
  CHECK_EQ(limits.abi_size, sizeof limits);
  CHECK_GT(limits.memory_bandwidth, 0.0);
  CHECK_EQ(limits.f32_peak, 0.0);
}

TEST(the_environment_names_the_isa) {
  TinyRuntime tiny;
  REQUIRE_EQ(setenv("ENGINERY_ISA", "portable", 1), 0);
  CHECK_EQ(std::string(enginery_runtime_executor_name(tiny.Start())), "portable");
  tiny.Destroy();
  REQUIRE_EQ(setenv("ENGINERY_ISA", "nonsense", 1), 0);
  enginery_runtime* runtime = nullptr;
  CHECK_EQ(enginery_runtime_create(tiny.engine(), &tiny.options, &runtime),
           ENGINERY_INVALID_ARGUMENT);
  tiny.options.isa = "portable";  // the option comes before the environment
  CHECK_EQ(std::string(enginery_runtime_executor_name(tiny.Start())), "portable");
  REQUIRE_EQ(unsetenv("ENGINERY_ISA"), 0);
}

}  // namespace
}  // namespace enginery::test
