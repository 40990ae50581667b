// SPDX-License-Identifier: Apache-2.0
#include "instance.h"

#include <chrono>
#include <exception>
#include <utility>

#include "base/str_cat.h"
#include "responses.h"
#include "triton_calls.h"
#include "triton_request.h"

namespace enginery::triton {
namespace {

using std::chrono::milliseconds;

constexpr int64_t kPollMs = 1000;
constexpr milliseconds kWatchPeriod(50);
constexpr milliseconds kMetricsPeriod(200);
// After a poll that failed: the loop goes on without spinning.
constexpr milliseconds kFailurePause(100);

enginery_engine* OpenEngine(const std::string& path) {
  enginery_engine* engine = nullptr;
  CheckRuntime(enginery_engine_open(path.c_str(), &engine));
  return engine;
}

enginery_runtime* CreateRuntime(enginery_engine* engine, const ModelOptions& options) {
  enginery_runtime_options view = options.View();
  view.iteration_stats_capacity = 1;  // metrics show the last one alone
  enginery_runtime* runtime = nullptr;
  CheckRuntime(enginery_runtime_create(engine, &view, &runtime));
  return runtime;
}

Limits ReadLimits(const enginery_engine* engine, const ModelOptions& options) {
  enginery_engine_info info{};
  info.abi_size = sizeof info;
  CheckRuntime(enginery_engine_get_info(engine, &info));
  const int64_t max_batch_size = options.runtime.max_batch_size;
  return {static_cast<uint64_t>(max_batch_size > 0 ? max_batch_size : info.max_batch_size),
          static_cast<uint64_t>(info.tokens_per_block)};
}

double UnixSeconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

std::unique_ptr<Metrics> MakeMetrics(const std::string& model_name, uint64_t model_version) {
  try {
    return std::make_unique<Metrics>(
        Metrics::Labels{{"model", model_name}, {"version", StrCat(model_version)}});
  } catch (const Error& error) {  // tritonserver --allow-metrics=false
    Log(TRITONSERVER_LOG_WARN, StrCat("no metrics of the runtime: ", error.what()));
    return nullptr;
  }
}

}  // namespace

Instance::Instance(const ModelConfig& config, const std::string& model_name, uint64_t model_version)
    : is_decoupled_(config.is_decoupled),
      engine_(OpenEngine(config.options.engine_dir)),
      runtime_(CreateRuntime(engine_.get(), config.options)),
      limits_(ReadLimits(engine_.get(), config.options)),
      metrics_(MakeMetrics(model_name, model_version)) {
  if (metrics_ != nullptr) {
    UpdateMetrics();
    metrics_thread_ = std::make_unique<PeriodicThread>(kMetricsPeriod, [this] { UpdateMetrics(); });
  }
  watch_ = std::make_unique<PeriodicThread>(kWatchPeriod, [this] { CancelGone(); });
  dispatcher_ = std::thread([this] { Dispatch(); });
}

Instance::~Instance() {
  watch_.reset();
  metrics_thread_.reset();
  enginery_runtime_shutdown(runtime_.get(), 0, 0);
  dispatcher_.join();
}

bool Instance::Execute(TRITONBACKEND_Request* request) {
  std::shared_ptr<Client> client;
  try {
    client = std::make_shared<Client>(request);
    Submit(request, client);
    return true;
  } catch (const Error& error) {
    observations_.AddError(error.status());
    if (client != nullptr) client->Refuse(error.status(), error.what());
  } catch (const std::exception& error) {  // this request pays, the server lives
    Log(TRITONSERVER_LOG_ERROR, StrCat("a request failed: ", error.what()));
    observations_.AddError(ENGINERY_INTERNAL);
    if (client != nullptr) client->Refuse(ENGINERY_INTERNAL, error.what());
  }
  return false;
}

void Instance::Submit(TRITONBACKEND_Request* request, const std::shared_ptr<Client>& client) {
  GenerationRequest read = ReadTritonRequest(request, is_decoupled_);
  const enginery_request view = read.View();
  std::vector<int32_t> repeated;
  if (read.responses.repeats_prompt) repeated = read.prompt_token_ids;
  client->SetWriter(ResponseWriter(read.responses, std::move(repeated)));
  clients_.Add(client, [&] {
    uint64_t id = 0;
    CheckRuntime(enginery_runtime_submit(runtime_.get(), &view, &id));
    return id;
  });
}

void Instance::Dispatch() {
  while (true) {
    enginery_events* raw = nullptr;
    const enginery_status status = enginery_runtime_poll(runtime_.get(), kPollMs, &raw);
    const std::unique_ptr<enginery_events, decltype(&enginery_events_free)> events(
        raw, &enginery_events_free);
    if (status == ENGINERY_SHUT_DOWN) break;
    try {
      CheckRuntime(status);
      observations_.Add(events.get());
      SendEvents(events.get());
    } catch (const std::exception& error) {
      // Whose events were lost is not known: everyone is told, nobody waits for ever.
      Log(TRITONSERVER_LOG_ERROR, StrCat("the dispatcher failed: ", error.what()));
      FailAll(ENGINERY_INTERNAL, error.what());
      std::this_thread::sleep_for(kFailurePause);
    }
  }
  FailAll(ENGINERY_SHUT_DOWN, "the model was unloaded");
}

void Instance::SendEvents(const enginery_events* events) {
  std::vector<Delta> deltas;
  const uint64_t count = enginery_events_count(events);
  deltas.reserve(count);
  for (uint64_t i = 0; i < count; ++i) deltas.emplace_back(*enginery_events_get(events, i));
  for (Delta& delta : Merge(std::move(deltas))) Send(std::move(delta));
}

void Instance::Send(Delta delta) {
  const uint64_t id = delta.request_id;
  const std::shared_ptr<Client> client = clients_.Find(id);
  if (client == nullptr) return;  // it was failed before
  const bool is_last = delta.is_last;
  try {
    client->Send(std::move(delta));
  } catch (const Error& error) {
    Log(TRITONSERVER_LOG_WARN, StrCat("request ", id, ": cannot send: ", error.what()));
    client->Refuse(error.status(), error.what());
    enginery_runtime_cancel(runtime_.get(), id);
  }
  if (is_last) clients_.Remove(id);
}

void Instance::FailAll(enginery_status status, std::string_view message) {
  for (const auto& [id, client] : clients_.Copy()) {
    client->Refuse(status, message);
    enginery_runtime_cancel(runtime_.get(), id);
    clients_.Remove(id);
  }
}

void Instance::CancelGone() {
  try {
    for (const auto& [id, client] : clients_.Copy()) {
      // NOT_FOUND: it ended meanwhile.
      if (client->IsGone()) enginery_runtime_cancel(runtime_.get(), id);
    }
  } catch (const std::exception& error) {
    Log(TRITONSERVER_LOG_ERROR, StrCat("cannot ask for clients: ", error.what()));
  }
}

Reading Instance::ReadRuntime() const {
  Reading reading;
  reading.read_at = UnixSeconds();
  reading.limits = limits_;
  reading.stats.abi_size = sizeof reading.stats;
  CheckRuntime(enginery_runtime_stats(runtime_.get(), &reading.stats));
  if (reading.stats.num_running > 0) {
    char* raw = nullptr;
    CheckRuntime(enginery_runtime_iterations_json(runtime_.get(), &raw));
    const std::unique_ptr<char, decltype(&enginery_string_free)> json(raw, &enginery_string_free);
    reading.step = ReadLastStep(json.get());
  }
  reading.observed = observations_.Read();
  return reading;
}

void Instance::UpdateMetrics() {
  try {
    metrics_->Update(ReadRuntime());
  } catch (const std::exception& error) {
    Log(TRITONSERVER_LOG_ERROR, StrCat("metrics: ", error.what()));
  }
}

}  // namespace enginery::triton
