// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "api/abi_struct.h"
#include "api/engine_handle.h"
#include "api/runtime_handle.h"
#include "api/status.h"
#include "base/str_cat.h"
#include "core/runtime_config.h"
#include "engine/engine.h"
#include "enginery/enginery.h"
#include "exec/cpu_executor.h"

using namespace enginery;  // NOLINT: this file defines functions of the global namespace

namespace {

// An executor until the runtime takes it over.
class OwnedExecutor {
 public:
  explicit OwnedExecutor(const enginery_executor& table) : table_(table) {}
  ~OwnedExecutor() {
    if (!is_released_ && table_.destroy != nullptr) table_.destroy(table_.ctx);
  }
  OwnedExecutor(const OwnedExecutor&) = delete;
  OwnedExecutor& operator=(const OwnedExecutor&) = delete;
  const enginery_executor& table() const { return table_; }
  void Release() { is_released_ = true; }

 private:
  const enginery_executor table_;
  bool is_released_ = false;
};

enginery_runtime_options DefaultOptions() {
  enginery_runtime_options options = {};
  options.abi_size = sizeof options;
  options.policy = ENGINERY_POLICY_GUARANTEED_NO_EVICT;
  options.enable_chunked_context = 1;
  options.enable_block_reuse = 1;
  options.iteration_stats_capacity = 1000;
  return options;
}

enginery_request DefaultRequest() {
  enginery_request request = {};
  request.abi_size = sizeof request;
  request.max_tokens = 32;
  request.num_return_sequences = 1;
  request.temperature = 1.0f;
  request.top_p = 1.0f;
  request.repetition_penalty = 1.0f;
  request.num_logprobs = -1;
  request.streaming = 1;
  return request;
}

ModelFacts FactsOf(const Engine& engine) {
  const ModelConfig& config = engine.config();
  ModelFacts facts;
  facts.vocab_size = config.vocab_size;
  facts.max_batch_size = config.max_batch_size;
  facts.max_num_tokens = config.max_num_tokens;
  facts.max_seq_len = config.max_seq_len;
  facts.max_input_len = config.max_input_len;
  facts.tokens_per_block = config.tokens_per_block;
  facts.kv_bytes_per_token = engine.kv_bytes_per_token();
  facts.eos_token_ids.assign(config.eos_token_ids.begin(), config.eos_token_ids.end());
  facts.token_bytes = engine.token_bytes();
  facts.labels = {
      {"target", engine.target()},           {"sku", engine.sku()},
      {"variant", engine.variant()},         {"builder_version", engine.builder_version()},
      {"architecture", config.architecture}, {"dtype", config.dtype},
      {"qformat", config.qformat},           {"kv_cache_dtype", config.kv_cache_dtype},
      {"tp_size", StrCat(engine.tp_size())}};
  return facts;
}

enginery_executor CheckedExecutor(const enginery_executor& given) {
  const enginery_executor executor =
      ReadAbiStruct(&given, enginery_executor{}, "enginery_executor");
  RequireArgument(executor.init != nullptr, "executor.init is NULL; it is required");
  RequireArgument(executor.execute != nullptr, "executor.execute is NULL; it is required");
  RequireArgument(executor.collect != nullptr, "executor.collect is NULL; it is required");
  return executor;
}

enginery_executor BuiltInExecutor(const std::shared_ptr<const Engine>& engine,
                                  const enginery_runtime_options& options, std::string* isa_name,
                                  std::shared_ptr<Profiler>* profiler) {
  if (options.num_threads < 0) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                StrCat("runtime option num_threads is ", options.num_threads,
                       "; accepted: 0 (as many as this process may run on) or more"));
  }
  CpuExecutorOptions cpu;
  cpu.num_threads = options.num_threads;
  cpu.pin_threads = options.pin_threads != 0;
  const char* isa = options.isa != nullptr ? options.isa : std::getenv("ENGINERY_ISA");
  if (isa != nullptr && *isa != '\0') cpu.isa = isa;
  return MakeCpuExecutor(engine, cpu, isa_name, profiler);
}

Runtime::OnEvent EventHandler(const enginery_runtime_options& options) {
  if (options.on_event == nullptr) return nullptr;
  return [call = options.on_event, user = options.user](const enginery_event& event) {
    call(user, &event);
  };
}

Watchdog::OnStall StallHandler(const enginery_runtime_options& options) {
  if (options.on_stall == nullptr) return nullptr;
  return [call = options.on_stall, user = options.user](const std::string& path,
                                                        const std::string& message) {
    call(user, path.c_str(), message.c_str());
  };
}

// -1: no limit.
std::optional<std::chrono::milliseconds> Timeout(int64_t timeout_ms) {
  RequireArgument(timeout_ms >= -1, "timeout_ms is below -1; pass -1 (no limit), 0 or more");
  // A year is as good as no limit, and keeps the clock's arithmetic from overflowing.
  constexpr int64_t kYearMs = int64_t{365} * 24 * 3600 * 1000;
  if (timeout_ms < 0 || timeout_ms > kYearMs) return std::nullopt;
  return std::chrono::milliseconds(timeout_ms);
}

Runtime& RuntimeOf(enginery_runtime* runtime) {
  RequireArgument(runtime != nullptr, "runtime is NULL");
  return *runtime->runtime;
}

// As much of the defaults as the caller's struct has. A size that cannot be the struct's leaves it
// untouched: create or submit refuses it then.
template <class T>
void FillDefaults(T defaults, T* to, uint64_t abi_size) {
  if (to == nullptr || abi_size < sizeof(uint64_t) || abi_size > kMaxAbiSize) return;
  std::memset(static_cast<void*>(to), 0, abi_size);
  defaults.abi_size = abi_size;
  std::memcpy(static_cast<void*>(to), &defaults, std::min<uint64_t>(abi_size, sizeof defaults));
}

}  // namespace

extern "C" {

void enginery_runtime_options_init(enginery_runtime_options* options, uint64_t abi_size) {
  FillDefaults(DefaultOptions(), options, abi_size);
}

void enginery_request_init(enginery_request* request, uint64_t abi_size) {
  FillDefaults(DefaultRequest(), request, abi_size);
}

enginery_status enginery_runtime_create(enginery_engine* engine,
                                        const enginery_runtime_options* options,
                                        enginery_runtime** runtime) {
  return Guard([&] {
    RequireArgument(engine != nullptr, "engine is NULL; pass an opened engine");
    RequireArgument(runtime != nullptr, "runtime is NULL; pass where the handle goes");
    const enginery_runtime_options given =
        options == nullptr ? DefaultOptions()
                           : ReadAbiStruct(options, DefaultOptions(), "enginery_runtime_options");
    RuntimeConfig config = ReadRuntimeOptions(given, FactsOf(*engine->engine));
    auto handle = std::make_unique<enginery_runtime>();
    handle->engine = engine->engine;
    if (given.executor != nullptr) {
      handle->executor_name = "custom";
      config.model.labels.emplace_back("executor", handle->executor_name);
      handle->runtime = std::make_unique<Runtime>(config, CheckedExecutor(*given.executor),
                                                  EventHandler(given), StallHandler(given));
    } else {
      OwnedExecutor executor(
          BuiltInExecutor(handle->engine, given, &handle->executor_name, &handle->profiler));
      config.model.labels.emplace_back("executor", handle->executor_name);
      handle->runtime = std::make_unique<Runtime>(config, executor.table(), EventHandler(given),
                                                  StallHandler(given));
      executor.Release();
    }
    *runtime = handle.release();
  });
}

enginery_status enginery_runtime_shutdown(enginery_runtime* runtime, int32_t drain,
                                          int64_t timeout_ms) {
  return Guard([&] {
    RequireArgument(drain == 0 || drain == 1, "drain is neither 0 nor 1");
    RuntimeOf(runtime).Shutdown(drain == 1, Timeout(timeout_ms));
  });
}

void enginery_runtime_destroy(enginery_runtime* runtime) { delete runtime; }

enginery_status enginery_runtime_submit(enginery_runtime* runtime, const enginery_request* request,
                                        uint64_t* request_id) {
  return Guard([&] {
    Runtime& target = RuntimeOf(runtime);
    RequireArgument(request_id != nullptr, "request_id is NULL; pass where the id goes");
    *request_id = target.Submit(ReadAbiStruct(request, DefaultRequest(), "enginery_request"));
  });
}

enginery_status enginery_runtime_cancel(enginery_runtime* runtime, uint64_t request_id) {
  return Guard([&] { RuntimeOf(runtime).Cancel(request_id); });
}

enginery_status enginery_runtime_poll(enginery_runtime* runtime, int64_t timeout_ms,
                                      enginery_events** events) {
  return Guard([&] {
    Runtime& target = RuntimeOf(runtime);
    RequireArgument(events != nullptr, "events is NULL; pass where the handle goes");
    auto taken = std::make_unique<enginery_events>();
    if (!target.Poll(Timeout(timeout_ms), &taken->events)) {
      return Fail(ENGINERY_SHUT_DOWN, "the runtime was shut down and all events were fetched");
    }
    *events = taken.release();
    return enginery_status{ENGINERY_OK};
  });
}

uint64_t enginery_events_count(const enginery_events* events) {
  return events == nullptr ? 0 : events->events.size();
}

const enginery_event* enginery_events_get(const enginery_events* events, uint64_t index) {
  return index < enginery_events_count(events) ? &events->events[index]->view : nullptr;
}

void enginery_events_free(enginery_events* events) { delete events; }

enginery_status enginery_runtime_stats(enginery_runtime* runtime, enginery_stats* stats) {
  return Guard([&] {
    Runtime& target = RuntimeOf(runtime);
    RequireArgument(stats != nullptr, "stats is NULL");
    WriteAbiStruct(target.Stats(), stats, stats->abi_size, "enginery_stats");
  });
}

enginery_status enginery_runtime_iterations_json(enginery_runtime* runtime, char** json) {
  return Guard([&] {
    Runtime& target = RuntimeOf(runtime);
    RequireArgument(json != nullptr, "json is NULL; pass where the string goes");
    const std::string text = target.IterationsJson();
    auto* copy = static_cast<char*>(std::malloc(text.size() + 1));
    if (copy == nullptr) throw std::bad_alloc();
    std::memcpy(copy, text.c_str(), text.size() + 1);
    *json = copy;
  });
}

const char* enginery_runtime_executor_name(const enginery_runtime* runtime) {
  return runtime == nullptr ? "" : runtime->executor_name.c_str();
}

}  // extern "C"
