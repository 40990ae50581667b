// SPDX-License-Identifier: Apache-2.0
#include "core/runtime.h"

#include <pthread.h>

#include <exception>
#include <limits>
#include <new>
#include <utility>

#include "base/error.h"
#include "base/str_cat.h"
#include "base/try_lock.h"
#include "core/request_reader.h"
#include "core/state_json.h"

namespace enginery {
namespace {

enginery_executor_info InitExecutor(const RuntimeConfig& config,
                                    const enginery_executor& executor) {
  enginery_limits limits = {};
  limits.abi_size = sizeof limits;
  limits.max_batch_size = config.model.max_batch_size;
  limits.max_num_tokens = config.model.max_num_tokens;
  limits.max_logit_rows = config.max_logit_rows;
  limits.max_seq_len = config.model.max_seq_len;
  limits.tokens_per_block = config.model.tokens_per_block;
  enginery_executor_info info = {};
  info.abi_size = sizeof info;
  const enginery_status status = executor.init(executor.ctx, &limits, config.kv_cache_bytes, &info);
  if (status != ENGINERY_OK) {
    const char* reason =
        executor.last_error == nullptr ? nullptr : executor.last_error(executor.ctx);
    throw Error(status, StrCat("the executor could not be initialised: ",
                               reason == nullptr ? "it gave no reason" : reason));
  }
  if (info.num_blocks < 1 || info.num_blocks >= std::numeric_limits<int32_t>::max()) {
    throw Error(ENGINERY_EXECUTOR_FAILED,
                StrCat("executor info num_blocks is ", info.num_blocks, "; accepted: 1..",
                       std::numeric_limits<int32_t>::max() - 1));
  }
  if (info.vocab_size != config.model.vocab_size) {
    throw Error(ENGINERY_EXECUTOR_FAILED, StrCat("executor info vocab_size is ", info.vocab_size,
                                                 "; the engine has ", config.model.vocab_size));
  }
  return info;
}

}  // namespace

Runtime::Runtime(const RuntimeConfig& config, const enginery_executor& executor, OnEvent on_event,
                 Watchdog::OnStall on_stall)
    : config_(config),
      executor_(executor),
      on_event_(std::move(on_event)),
      iterations_(config.iteration_stats_capacity) {
  const enginery_executor_info info = InitExecutor(config_, executor_);
  loop_ = std::make_unique<StepLoop>(config_, executor_, info);
  stats_ = loop_->Stats();
  if (config_.watchdog_timeout_ms > 0) {
    watchdog_ = std::make_unique<Watchdog>(
        WatchdogOptions{config_.watchdog_timeout_ms, config_.watchdog_dir},
        [this](JsonWriter* json) { Describe(json); }, std::move(on_stall));
  }
  step_thread_ = std::thread([this] { RunSteps(); });
  if (!on_event_) return;
  try {
    delivery_thread_ = std::thread([this] { RunDelivery(); });
  } catch (...) {
    Shutdown(false, std::nullopt);
    {
      const std::lock_guard lock(mutex_);
      is_stopping_ = true;
    }
    wake_.notify_one();
    step_thread_.join();
    throw;
  }
}

Runtime::~Runtime() {
  Shutdown(false, std::nullopt);
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  wake_.notify_one();
  step_thread_.join();
  if (delivery_thread_.joinable()) delivery_thread_.join();
  if (executor_.destroy != nullptr) executor_.destroy(executor_.ctx);
}

uint64_t Runtime::Submit(const enginery_request& request) {
  // Reading and checking need no lock: only the queue does.
  std::unique_ptr<Request> read = ReadRequest(request, config_);
  loop_->CheckFits(*read);
  read->arrival_ns = MonotonicNs();
  const auto timeout_ms = static_cast<uint64_t>(request.timeout_ms);
  constexpr uint64_t kNsPerMs = 1'000'000;
  // A deadline beyond the clock's range, some 500 years, is none.
  if (timeout_ms > 0 && timeout_ms < (UINT64_MAX - read->arrival_ns) / kNsPerMs) {
    read->deadline_ns = read->arrival_ns + timeout_ms * kNsPerMs;
  }
  uint64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!is_accepting_) {
      throw Error(ENGINERY_SHUT_DOWN, "the runtime was shut down and takes no requests");
    }
    const uint64_t num_waiting = stats_.num_waiting + inbox_.size();
    if (config_.max_queue_size > 0 &&
        num_waiting >= static_cast<uint64_t>(config_.max_queue_size)) {
      throw Error(ENGINERY_QUEUE_FULL,
                  StrCat(num_waiting, " requests wait; accepted: max_queue_size ",
                         config_.max_queue_size, "; try again later or raise it"));
    }
    id = read->id = last_id_ + 1;
    inbox_.push_back(std::move(read));
    live_.insert(id);
    is_settled_ = false;
    last_id_ = id;
  }
  wake_.notify_one();
  return id;
}

void Runtime::Cancel(uint64_t request_id) {
  {
    const std::lock_guard lock(mutex_);
    if (!live_.contains(request_id)) {
      throw Error(ENGINERY_NOT_FOUND,
                  StrCat("request ", request_id, " has ended or was never submitted"));
    }
    cancelled_.push_back(request_id);
  }
  wake_.notify_one();
}

void Runtime::Shutdown(bool drain, std::optional<std::chrono::milliseconds> timeout) {
  std::unique_lock lock(mutex_);
  is_accepting_ = false;
  const auto is_done = [this] { return is_settled_; };
  if (drain && timeout.has_value()) {
    settled_.wait_for(lock, *timeout, is_done);
  } else if (drain) {
    settled_.wait(lock, is_done);
  }
  cancel_all_ = true;
  wake_.notify_one();
  settled_.wait(lock, is_done);  // one step at most
  events_.Close();
}

bool Runtime::Poll(std::optional<std::chrono::milliseconds> timeout, Events* events) {
  if (on_event_) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                "events go to the runtime option on_event; leave it NULL to poll");
  }
  return events_.Take(timeout, events);
}

enginery_stats Runtime::Stats() const {
  const std::lock_guard lock(mutex_);
  enginery_stats stats = stats_;
  stats.num_requests += inbox_.size();
  stats.num_waiting += inbox_.size();
  return stats;
}

std::string Runtime::IterationsJson() const {
  const std::lock_guard lock(mutex_);
  return iterations_.ToJson();
}

void Runtime::RunSteps() {
  // For top, gdb and whoever looks for it in /proc. It fails for longer names alone.
  pthread_setname_np(pthread_self(), "enginery-step");
  for (;;) {
    try {
      if (!TakeInbox()) return;
      RunOneStep();
    } catch (const std::bad_alloc&) {
      // Even telling of the failure found no memory: the next turn tries again.
    }
  }
}

bool Runtime::TakeInbox() {
  if (watchdog_ != nullptr) watchdog_->EndStep();
  bool cancel_all = false;
  {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] {
      return loop_->has_requests() || !inbox_.empty() || !cancelled_.empty() || cancel_all_ ||
             is_stopping_;
    });
    if (is_stopping_ && live_.empty()) return false;
    if (watchdog_ != nullptr) watchdog_->BeginStep();
    taken_.swap(inbox_);
    taken_cancelled_.swap(cancelled_);
    cancel_all = std::exchange(cancel_all_, false);
    stats_.num_requests += taken_.size();
    stats_.num_waiting += taken_.size();
  }
  for (std::unique_ptr<Request>& request : taken_) {
    // Null: moved on before memory ran out in an earlier turn.
    if (request != nullptr) loop_->Add(std::move(request));
  }
  for (const uint64_t id : taken_cancelled_) loop_->Cancel(id);
  taken_.clear();
  taken_cancelled_.clear();
  if (cancel_all) loop_->CancelAll();
  return true;
}

void Runtime::RunOneStep() {
  bool has_stepped = false;
  try {
    has_stepped = loop_->Step();
    if (!has_stepped && loop_->has_requests()) {
      throw Error(ENGINERY_INTERNAL, "nothing could be scheduled; this is a bug in Enginery");
    }
  } catch (const std::bad_alloc&) {
    loop_->FailAll(ENGINERY_OUT_OF_MEMORY, "out of memory in the step loop");
  } catch (const std::exception& error) {
    loop_->FailAll(ENGINERY_INTERNAL, error.what());
  }
  Publish(has_stepped);
}

void Runtime::Publish(bool has_stepped) {
  // The counters first: who has seen an event finds it counted.
  bool has_ended = false;
  {
    const std::lock_guard lock(mutex_);
    stats_ = loop_->Stats();
    if (has_stepped) iterations_.Add(loop_->last_iteration());
    for (const uint64_t id : *loop_->ended_ids()) live_.erase(id);
    has_ended = live_.empty();
  }
  loop_->ended_ids()->clear();
  events_.Push(loop_->events());
  if (!has_ended) return;
  {
    const std::lock_guard lock(mutex_);
    is_settled_ = live_.empty();
  }
  settled_.notify_all();
}

void Runtime::Describe(JsonWriter* json) const {
  json->Key("engine").BeginObject();
  for (const auto& [name, value] : config_.model.labels) json->Key(name).String(value);
  json->EndObject();
  DescribeConfig(config_, json);
  {
    const std::unique_lock lock = TryLockFor(mutex_, kLockPatience);
    if (lock.owns_lock()) {
      DescribeStats(stats_, json);
      json->Key("inbox").BeginArray();
      for (const std::unique_ptr<Request>& request : inbox_) {
        DescribeWaiting(*request->sequences.front(), json);
      }
      json->EndArray();
    } else {
      json->Key("statistics").Null().Key("inbox").Null();
    }
  }
  loop_->Describe(json);
}

void Runtime::RunDelivery() {
  Events events;
  while (events_.Take(std::nullopt, &events)) {
    for (const std::unique_ptr<Event>& event : events) on_event_(event->view);
  }
}

}  // namespace enginery
