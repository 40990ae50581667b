// SPDX-License-Identifier: Apache-2.0
#include "instance.h"

#include <chrono>
#include <cstdlib>
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
// A send is a matter of microseconds, and of milliseconds where the machine is busy.
constexpr milliseconds kSendGuardPeriod(1000);
constexpr int kMaxSendRounds = 30;
// After a poll that failed: the loop goes on without spinning.
constexpr milliseconds kFailurePause(100);

enginery_engine* OpenEngine(const std::string& path) {
  enginery_engine* engine = nullptr;
  CheckRuntime(enginery_engine_open(path.c_str(), &engine));
  return engine;
}

// Triton server would go on saying "ready"; its end would wait for the requests that are stuck.
void EndStalledServer(void*, const char*, const char* message) {
  Log(TRITONSERVER_LOG_ERROR, StrCat("watchdog: ", message));
  std::_Exit(EXIT_FAILURE);
}

// Triton server 2.51 can lock itself up when a stream is cancelled while a response to it is handed
// over (docs/triton.md): all streams then stand still.
void EndStuckServer() {
  Log(TRITONSERVER_LOG_ERROR,
      StrCat("Triton server has not taken a response for ", kMaxSendRounds,
             " s, so that nothing is answered any more: ends with status 1, start it again"));
  std::_Exit(EXIT_FAILURE);
}

enginery_runtime* CreateRuntime(enginery_engine* engine, const ModelOptions& options) {
  enginery_runtime_options view = options.View();
  view.iteration_stats_capacity = 1;  // metrics show the last one alone
  view.on_stall = EndStalledServer;
  enginery_runtime* runtime = nullptr;
  CheckRuntime(enginery_runtime_create(engine, &view, &runtime));
  return runtime;
}

enginery_engine_info ReadInfo(const enginery_engine* engine) {
  enginery_engine_info info{};
  info.abi_size = sizeof info;
  CheckRuntime(enginery_engine_get_info(engine, &info));
  return info;
}

EngineFacts ReadFacts(const enginery_engine* engine) {
  const enginery_engine_info info = ReadInfo(engine);
  const void* section = nullptr;
  uint64_t num_bytes = 0;
  CheckRuntime(enginery_engine_section(engine, 0, "token_bytes", &section, &num_bytes));
  return {static_cast<uint64_t>(info.vocab_size),
          static_cast<uint64_t>(info.tokens_per_block),
          {info.eos_token_ids, info.eos_token_ids + info.num_eos_token_ids},
          ReadTokenBytes({static_cast<const std::byte*>(section), num_bytes}, info.vocab_size)};
}

Limits ReadLimits(const enginery_engine* engine, const ModelOptions& options) {
  const enginery_engine_info info = ReadInfo(engine);
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
    : engine_(OpenEngine(config.options.engine_dir)),
      runtime_(CreateRuntime(engine_.get(), config.options)),
      facts_(ReadFacts(engine_.get())),
      codec_(config.layout->make_codec(config, facts_)),
      limits_(ReadLimits(engine_.get(), config.options)),
      log_(config.options.log_requests, model_name),
      metrics_(MakeMetrics(model_name, model_version)),
      send_guard_(kSendGuardPeriod, kMaxSendRounds, EndStuckServer) {
  if (metrics_ != nullptr) {
    UpdateMetrics();
    metrics_thread_ = std::make_unique<PeriodicThread>(kMetricsPeriod, [this] { UpdateMetrics(); });
  }
  watch_ = std::make_unique<PeriodicThread>(kWatchPeriod, [this] { CancelGone(); });
  dispatcher_ = std::thread([this] { Dispatch(); });
}

Instance::~Instance() {
  metrics_thread_.reset();
  enginery_runtime_shutdown(runtime_.get(), 0, 0);
  dispatcher_.join();
  // Those whose clients left end a little later.
  while (!clients_.IsEmpty()) std::this_thread::sleep_for(kWatchPeriod);
  watch_.reset();
}

bool Instance::Execute(TRITONBACKEND_Request* request) {
  std::shared_ptr<Client> client;
  try {
    client = std::make_shared<Client>(request);
    Submit(request, client);
    return true;
  } catch (const Error& error) {
    RefuseNew(client.get(), error.status(), error.what());
  } catch (const std::exception& error) {  // this request pays, the server lives
    Log(TRITONSERVER_LOG_ERROR, StrCat("a request failed: ", error.what()));
    RefuseNew(client.get(), ENGINERY_INTERNAL, error.what());
  }
  return false;
}

void Instance::RefuseNew(Client* client, enginery_status status, std::string_view message) {
  observations_.AddError(status);
  log_.Refuse(client == nullptr ? "" : client->request_id(), status, message);
  if (client != nullptr) Refuse(*client, status, message);
}

void Instance::Submit(TRITONBACKEND_Request* request, const std::shared_ptr<Client>& client) {
  ModelRequest read = ReadTritonRequest(request, *codec_);
  if (read.is_stop) {
    CancelThoseOf([&](const Client& other) { return other.names().AreAskedFor(read.names); });
    client->End();
    return;
  }
  std::vector<std::unique_ptr<EventWriter>> writers;
  for (Row& row : read.rows) writers.push_back(std::move(row.writer));
  client->SetRows(std::move(read.names), std::move(writers));
  for (size_t i = 0; i < read.rows.size(); ++i) {
    enginery_request view = read.rows[i].request.View();
    view.client_request_id = {client->request_id().data(), client->request_id().size()};
    clients_.Add({client, i}, [&] {
      uint64_t id = 0;
      CheckRuntime(enginery_runtime_submit(runtime_.get(), &view, &id));
      return id;
    });
  }
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
  for (uint64_t i = 0; i < count; ++i) {
    deltas.emplace_back(*enginery_events_get(events, i), facts_.vocab_size);
  }
  for (Delta& delta : Merge(std::move(deltas))) Send(std::move(delta));
}

void Instance::Send(Delta delta) {
  const uint64_t id = delta.request_id;
  const auto [client, row] = clients_.Find(id);
  if (client == nullptr) return;  // it was failed before
  const bool is_last = delta.is_last;
  log_.Add(delta, client->request_id());
  try {
    const CallGuard::Call call(send_guard_);
    client->Send(row, std::move(delta));
  } catch (const Error& error) {
    Log(TRITONSERVER_LOG_WARN, StrCat("request ", id, ": cannot send: ", error.what()));
    Refuse(*client, error.status(), error.what());
  }
  if (is_last && !client->IsGone()) clients_.Remove(id);
}

void Instance::Refuse(Client& client, enginery_status status, std::string_view message) {
  client.Refuse(status, message);
  CancelThoseOf([&client](const Client& other) { return &other == &client; });
}

void Instance::CancelThoseOf(const std::function<bool(const Client&)>& predicate) {
  for (const uint64_t id : clients_.IdsOf(predicate)) enginery_runtime_cancel(runtime_.get(), id);
}

void Instance::FailAll(enginery_status status, std::string_view message) {
  for (const auto& [id, recipient] : clients_.Copy()) {
    recipient.client->Refuse(status, message);
    enginery_runtime_cancel(runtime_.get(), id);
    if (!recipient.client->IsGone()) clients_.Remove(id);
  }
}

void Instance::CancelGone() {
  try {
    for (const auto& [id, recipient] : clients_.Copy()) {
      if (recipient.client->EndDeparted()) {
        clients_.Remove(id);
      } else if (recipient.client->IsGone()) {
        enginery_runtime_cancel(runtime_.get(), id);  // NOT_FOUND: it ended meanwhile
      }
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
  reading.observed.SetStepTimes(reading.stats);
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
