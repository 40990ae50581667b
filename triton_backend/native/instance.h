// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_INSTANCE_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_INSTANCE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/periodic_thread.h"
#include "call_guard.h"
#include "client_table.h"
#include "codec.h"
#include "enginery/enginery.h"
#include "metrics.h"
#include "model_config.h"
#include "observations.h"
#include "request_log.h"
#include "triton_api.h"

namespace enginery::triton {

// The one instance of a model: the runtime behind Triton server's request objects. Triton server's
// thread submits and goes; one thread takes the runtime's events and sends responses; one looks
// after clients that left, one after metrics and one after sends that do not return. None holds up
// the runtime's step loop.
class Instance {
 public:
  // Opens the engine and starts the runtime and the threads. Throws Error.
  Instance(const ModelConfig& config, const std::string& model_name, uint64_t model_version);
  // Cancels what runs, answers it and gives everything back.
  ~Instance();
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  // Submits a request, or answers it with the reason why not. True when it was submitted. The
  // request stays the caller's.
  bool Execute(TRITONBACKEND_Request* request);

 private:
  struct CloseEngine {
    void operator()(enginery_engine* engine) const { enginery_engine_close(engine); }
  };
  struct DestroyRuntime {
    void operator()(enginery_runtime* runtime) const { enginery_runtime_destroy(runtime); }
  };

  void Submit(TRITONBACKEND_Request* request, const std::shared_ptr<Client>& client);
  void Dispatch();
  // Hands out what one poll brought.
  void SendEvents(const enginery_events* events);
  void Send(Delta delta);
  // Answers a request that the runtime never had.
  void RefuseNew(Client* client, enginery_status status, std::string_view message);
  // Ends the request of a client with an error, and cancels all its rows.
  void Refuse(Client& client, enginery_status status, std::string_view message);
  // Cancels the requests of the clients for which `predicate` is true.
  void CancelThoseOf(const std::function<bool(const Client&)>& predicate);
  void FailAll(enginery_status status, std::string_view message);
  void CancelGone();
  // Throws Error.
  Reading ReadRuntime() const;
  void UpdateMetrics();

  std::unique_ptr<enginery_engine, CloseEngine> engine_;
  std::unique_ptr<enginery_runtime, DestroyRuntime> runtime_;
  const EngineFacts facts_;
  const std::unique_ptr<Codec> codec_;
  Limits limits_;
  ClientTable clients_;
  Observations observations_;
  RequestLog log_;
  std::unique_ptr<Metrics> metrics_;  // NULL when Triton server has none
  std::unique_ptr<PeriodicThread> metrics_thread_;
  std::unique_ptr<PeriodicThread> watch_;
  CallGuard send_guard_;
  std::thread dispatcher_;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_INSTANCE_H_
