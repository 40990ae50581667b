// SPDX-License-Identifier: Apache-2.0
//
// What Triton server calls. Exceptions become its errors here and only here.
#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "base/str_cat.h"
#include "instance.h"
#include "model_config.h"
#include "triton_api.h"
#include "triton_calls.h"

#define ENGINERY_TRITON_EXPORT extern "C" __attribute__((visibility("default")))

namespace enginery::triton {
namespace {

uint64_t NowNs() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::nanoseconds(now).count());
}

ModelConfig ReadConfig(TRITONBACKEND_Model* model) {
  TRITONSERVER_Message* raw = nullptr;
  Check(TRITONBACKEND_ModelConfig(model, 1, &raw));
  const auto remove = [](TRITONSERVER_Message* message) {
    LogError(TRITONSERVER_MessageDelete(message), "deleting a message");
  };
  const std::unique_ptr<TRITONSERVER_Message, decltype(remove)> message(raw, remove);
  const char* base = nullptr;
  size_t num_bytes = 0;
  Check(TRITONSERVER_MessageSerializeToJson(raw, &base, &num_bytes));
  return ReadModelConfig({base, num_bytes});
}

std::unique_ptr<Instance> MakeInstance(TRITONBACKEND_ModelInstance* raw) {
  TRITONBACKEND_Model* model = nullptr;
  Check(TRITONBACKEND_ModelInstanceModel(raw, &model));
  void* config = nullptr;
  Check(TRITONBACKEND_ModelState(model, &config));
  const char* name = nullptr;
  Check(TRITONBACKEND_ModelName(model, &name));
  uint64_t version = 0;
  Check(TRITONBACKEND_ModelVersion(model, &version));
  return std::make_unique<Instance>(*static_cast<const ModelConfig*>(config), name, version);
}

}  // namespace
}  // namespace enginery::triton

using enginery::triton::Check;
using enginery::triton::Guard;
using enginery::triton::LogError;

ENGINERY_TRITON_EXPORT TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend*) {
  return Guard([] {
    uint32_t major = 0;
    uint32_t minor = 0;
    Check(TRITONBACKEND_ApiVersion(&major, &minor));
    if (major == TRITONBACKEND_API_VERSION_MAJOR && minor >= TRITONBACKEND_API_VERSION_MINOR) {
      return;
    }
    throw enginery::Error(
        ENGINERY_NOT_SUPPORTED,
        enginery::StrCat("Triton server's backend interface is ", major, ".", minor,
                         "; the native backend needs ", TRITONBACKEND_API_VERSION_MAJOR, ".",
                         TRITONBACKEND_API_VERSION_MINOR, " or a later minor version"));
  });
}

ENGINERY_TRITON_EXPORT TRITONSERVER_Error* TRITONBACKEND_Finalize(TRITONBACKEND_Backend*) {
  return nullptr;
}

ENGINERY_TRITON_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(
    TRITONBACKEND_Model* model) {
  return Guard([model] {
    auto config =
        std::make_unique<enginery::triton::ModelConfig>(enginery::triton::ReadConfig(model));
    Check(TRITONBACKEND_ModelSetState(model, config.get()));
    static_cast<void>(config.release());  // until ModelFinalize
  });
}

ENGINERY_TRITON_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return Guard([model] {
    void* config = nullptr;
    Check(TRITONBACKEND_ModelState(model, &config));
    delete static_cast<enginery::triton::ModelConfig*>(config);
  });
}

ENGINERY_TRITON_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(
    TRITONBACKEND_ModelInstance* raw) {
  return Guard([raw] {
    std::unique_ptr<enginery::triton::Instance> instance = enginery::triton::MakeInstance(raw);
    Check(TRITONBACKEND_ModelInstanceSetState(raw, instance.get()));
    static_cast<void>(instance.release());  // until ModelInstanceFinalize
  });
}

ENGINERY_TRITON_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(
    TRITONBACKEND_ModelInstance* raw) {
  return Guard([raw] {
    void* instance = nullptr;
    Check(TRITONBACKEND_ModelInstanceState(raw, &instance));
    delete static_cast<enginery::triton::Instance*>(instance);
  });
}

// Every request is answered and released here, now or later, so that no error is left to return.
ENGINERY_TRITON_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* raw, TRITONBACKEND_Request** requests, uint32_t num_requests) {
  void* instance = nullptr;
  // An error here leaves all requests with Triton server, which answers them with it.
  if (TRITONSERVER_Error* error = TRITONBACKEND_ModelInstanceState(raw, &instance)) return error;
  const uint64_t begin = enginery::triton::NowNs();
  uint64_t num_submitted = 0;
  for (uint32_t i = 0; i < num_requests; ++i) {
    const uint64_t start = enginery::triton::NowNs();
    const bool is_submitted =
        static_cast<enginery::triton::Instance*>(instance)->Execute(requests[i]);
    num_submitted += is_submitted ? 1 : 0;
    const uint64_t end = enginery::triton::NowNs();
    LogError(TRITONBACKEND_ModelInstanceReportStatistics(raw, requests[i], is_submitted, start,
                                                         start, end, end),
             "reporting statistics");
    LogError(TRITONBACKEND_RequestRelease(requests[i], TRITONSERVER_REQUEST_RELEASE_ALL),
             "releasing a request");
  }
  if (num_submitted > 0) {
    const uint64_t end = enginery::triton::NowNs();
    LogError(TRITONBACKEND_ModelInstanceReportBatchStatistics(raw, num_submitted, begin, begin, end,
                                                              end),
             "reporting statistics");
  }
  return nullptr;
}
