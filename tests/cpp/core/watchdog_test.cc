// SPDX-License-Identifier: Apache-2.0
//
// Steps that do not come to their end: the executor is held, and what the watchdog tells is read.
#include "core/watchdog.h"

#include <sys/stat.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/str_cat.h"
#include "check.h"
#include "support/runtime_over_fake.h"
#include "support/temp_dir.h"

namespace enginery::test {
namespace {

using std::chrono::milliseconds;

constexpr int64_t kTimeoutMs = 20;

struct Stall {
  std::string path;
  std::string message;

  std::string Text() const {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
};

// What the watchdog told and nobody has taken.
class Stalls {
 public:
  Watchdog::OnStall handler() {
    return [this](const std::string& path, const std::string& message) {
      const std::lock_guard lock(mutex_);
      told_.push_back({path, message});
      changed_.notify_all();
    };
  }
  Stall Take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !told_.empty(); });
    Stall first = told_.front();
    told_.pop_front();
    return first;
  }
  bool is_empty() {
    const std::lock_guard lock(mutex_);
    return told_.empty();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Stall> told_;
};

struct Watched : Fixture {
  explicit Watched(const FixtureOptions& options = {}) : Fixture(options) {
    config.watchdog_timeout_ms = kTimeoutMs;
    config.watchdog_dir = directory.path();
    on_stall = stalls.handler();
  }
  TempDir directory;
  Stalls stalls;
};

bool Has(const std::string& text, const std::string& part) {
  const bool has = text.find(part) != std::string::npos;
  if (!has) std::cerr << "  no " << part << " in " << text << "\n";
  return has;
}

TEST(a_stalled_step_is_written_down_and_told_once) {
  FixtureOptions options;
  options.max_batch_size = 2;
  options.max_num_tokens = 8;
  Gate gate;
  Watched f(options);
  gate.AttachTo(&f.executor);
  Runtime& runtime = f.Start();
  TestRequest decoding = Endless({1, 2, 3, 4, 5}, 4);
  decoding.fields.client_request_id = {"first", 5};
  TestRequest long_prompt = Endless(std::vector<int32_t>(20, 7), 3);
  TestRequest queued = Endless({6}, 2);
  const uint64_t first = runtime.Submit(decoding.view());
  gate.WaitUntilReached(1);
  const uint64_t second = runtime.Submit(long_prompt.view());
  const uint64_t third = runtime.Submit(queued.view());
  gate.LetPass();
  gate.WaitUntilReached(2);
  const uint64_t fourth = runtime.Submit(queued.view());
  Stall stall = f.stalls.Take();
  // On a machine under load the step before may have taken too long as well.
  if (stall.Text().find("\"iteration\":0") != std::string::npos) stall = f.stalls.Take();
  const std::string text = stall.Text();
  CHECK(Has(text, "\"watchdog_timeout_ms\":20,"));
  CHECK(Has(text, "\"stage\":\"executor\""));
  CHECK(Has(text,
            "\"step\":{\"iteration\":1,\"num_tokens\":8,\"num_decode_tokens\":1,"
            "\"num_sequences\":2}"));
  CHECK(Has(text, "\"batch\":[{\"request_id\":1,\"client_request_id\":\"first\","));
  CHECK(Has(text, "\"phase\":\"decode\",\"num_computed_tokens\":5,\"num_scheduled_tokens\":1,"));
  CHECK(Has(text, "\"phase\":\"prefill\",\"num_computed_tokens\":0,\"num_scheduled_tokens\":7,"));
  CHECK(Has(text, "\"block_table\":[0,1]}"));
  CHECK(Has(text, "\"queue\":[{\"request_id\":3,"));
  CHECK(Has(text, "\"inbox\":[{\"request_id\":4,"));
  CHECK(Has(text,
            "\"blocks\":{\"tokens_per_block\":4,\"num_blocks\":64,\"num_used\":7,"
            "\"num_free\":57,"));
  CHECK(Has(text, "\"policy\":\"GUARANTEED_NO_EVICT\""));
  CHECK(Has(stall.message,
            StrCat("watchdog_timeout_ms is 20: the state of the serving loop is in ", stall.path)));
  struct stat file = {};
  REQUIRE_EQ(::stat(stall.path.c_str(), &file), 0);
  CHECK_EQ(file.st_mode & 0777, 0600);
  std::this_thread::sleep_for(milliseconds(5 * kTimeoutMs));
  CHECK(f.stalls.is_empty());
  // Nothing was changed by looking.
  gate.Open();
  const Results results = TakeResults(&runtime, 4);
  CHECK(results.at({first, 0}).token_ids == Reference(&decoding, 0).token_ids);
  CHECK(results.at({second, 0}).token_ids == Reference(&long_prompt, 0).token_ids);
  CHECK(results.at({third, 0}).token_ids == Reference(&queued, 0).token_ids);
  CHECK(results.at({fourth, 0}).token_ids == Reference(&queued, 0).token_ids);
}

// last_error is called with the loop's lock held, as the scheduler and the sampler run.
TEST(a_step_that_is_stuck_elsewhere_is_told_without_what_it_changes) {
  Watched f;
  f.executor.failing_token = 35;
  static Gate* gate = nullptr;
  Gate own;
  gate = &own;
  enginery_executor table = f.executor.table();
  table.last_error = [](void*) {
    gate->Pass();
    return "told to fail";
  };
  f.was_started = true;
  f.runtime = std::make_unique<Runtime>(f.config, table, nullptr, f.on_stall);
  TestRequest bad = Endless({1, 35}, 5);
  const uint64_t id = f.runtime->Submit(bad.view());
  own.WaitUntilReached();
  const uint64_t other = f.runtime->Submit(bad.view());
  const std::string text = f.stalls.Take().Text();
  CHECK(Has(text,
            "\"stage\":\"scheduler or sampler\",\"step\":null,\"batch\":null,\"queue\":null,"
            "\"blocks\":null}"));
  CHECK(Has(text, "\"statistics\":{\"num_iterations\":0,"));
  CHECK(Has(text, StrCat("\"inbox\":[{\"request_id\":", other)));
  own.Open();
  CHECK_EQ(TakeResults(f.runtime.get(), 2).at({id, 0}).status, ENGINERY_EXECUTOR_FAILED);
}

TEST(a_stall_that_cannot_be_written_is_told_all_the_same) {
  Gate gate;
  Watched f;
  f.config.watchdog_dir += "/gone";
  gate.AttachTo(&f.executor);
  Runtime& runtime = f.Start();
  TestRequest request = Endless({1, 2, 3}, 1);
  runtime.Submit(request.view());
  const Stall stall = f.stalls.Take();
  CHECK_EQ(stall.path, "");
  CHECK(Has(stall.message, "could not be written to " + f.config.watchdog_dir));
  gate.Open();
  TakeResults(&runtime, 1);
}

TEST(a_loop_that_waits_for_requests_does_not_stall) {
  Watched f;
  f.Start();
  std::this_thread::sleep_for(milliseconds(5 * kTimeoutMs));
  CHECK(f.stalls.is_empty());
}

TEST(folders_that_take_no_files_are_refused) {
  const TempDir directory;
  CHECK_EQ(CheckedWatchdogDirectory(directory.path()), directory.path());
  CHECK(!CheckedWatchdogDirectory("").empty());
  CHECK_THROWS_WITH(CheckedWatchdogDirectory(directory.file("gone")), Error, "watchdog_dir is /");
  CHECK_THROWS_WITH(CheckedWatchdogDirectory("/proc/self/maps"), Error, "accepted: a folder");
}

TEST(steps_are_counted_by_their_time) {
  constexpr uint64_t kUnit = ENGINERY_STEP_TIME_NS;
  for (const auto& [duration_ns, index] : {std::pair<uint64_t, size_t>{0, 0},
                                           {kUnit, 0},
                                           {kUnit + 1, 1},
                                           {2 * kUnit, 1},
                                           {2 * kUnit + 1, 2},
                                           {kUnit << 23, 23},
                                           {(kUnit << 23) + 1, 24},
                                           {UINT64_MAX, 24}}) {
    CHECK_EQ(StepTimeIndex(duration_ns), index);
  }
  Fixture f;
  Runtime& runtime = f.Start();
  TestRequest request = Endless({1, 2, 3}, 5);
  runtime.Submit(request.view());
  TakeResults(&runtime, 1);
  uint64_t num_steps = 0;
  for (const uint64_t count : runtime.Stats().step_time_counts) num_steps += count;
  CHECK_EQ(num_steps, 5);
}

}  // namespace
}  // namespace enginery::test
