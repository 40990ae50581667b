// SPDX-License-Identifier: Apache-2.0
#include "client.h"

#include <cstring>
#include <utility>

#include "base/str_cat.h"
#include "triton_calls.h"

namespace enginery::triton {
namespace {

TRITONSERVER_DataType ToTriton(DataType type) {
  switch (type) {
    case DataType::kString:
      return TRITONSERVER_TYPE_BYTES;
    case DataType::kInt32:
      return TRITONSERVER_TYPE_INT32;
    case DataType::kInt64:
      return TRITONSERVER_TYPE_INT64;
    case DataType::kUint64:
      return TRITONSERVER_TYPE_UINT64;
    case DataType::kFp32:
      return TRITONSERVER_TYPE_FP32;
    case DataType::kBool:
      return TRITONSERVER_TYPE_BOOL;
    case DataType::kOther:
      break;
  }
  return TRITONSERVER_TYPE_INVALID;
}

std::set<std::string, std::less<>> WantedOutputs(TRITONBACKEND_Request* request) {
  uint32_t count = 0;
  Check(TRITONBACKEND_RequestOutputCount(request, &count));
  std::set<std::string, std::less<>> names;
  for (uint32_t i = 0; i < count; ++i) {
    const char* name = nullptr;
    Check(TRITONBACKEND_RequestOutputName(request, i, &name));
    names.emplace(name);
  }
  return names;
}

}  // namespace

class Client::Response {
 public:
  explicit Response(TRITONBACKEND_ResponseFactory* factory) {
    Check(TRITONBACKEND_ResponseNewFromFactory(&raw_, factory));
  }
  ~Response() {
    if (raw_ != nullptr) LogError(TRITONBACKEND_ResponseDelete(raw_), "deleting a response");
  }
  Response(const Response&) = delete;
  Response& operator=(const Response&) = delete;

  TRITONBACKEND_Response* get() const { return raw_; }
  // Takes the error.
  TRITONSERVER_Error* Send(uint32_t flags, TRITONSERVER_Error* error) {
    return TRITONBACKEND_ResponseSend(std::exchange(raw_, nullptr), flags, error);
  }

 private:
  TRITONBACKEND_Response* raw_ = nullptr;
};

Client::Client(TRITONBACKEND_Request* request) : wanted_outputs_(WantedOutputs(request)) {
  Check(TRITONBACKEND_ResponseFactoryNew(&factory_, request));
}

Client::~Client() { Refuse(ENGINERY_SHUT_DOWN, "the request was dropped"); }

bool Client::IsGone() {
  const std::lock_guard lock(mutex_);
  if (factory_ == nullptr) return false;
  bool is_cancelled = false;
  Check(TRITONBACKEND_ResponseFactoryIsCancelled(factory_, &is_cancelled));
  return is_cancelled;
}

void Client::Send(Delta delta) {
  const std::lock_guard lock(mutex_);
  if (factory_ == nullptr) return;
  if (delta.finish_reason == ENGINERY_FINISH_ERROR) {
    SendError(delta.status, StrCat(enginery_status_name(delta.status), ": ", delta.error));
    return;
  }
  const bool is_last = delta.is_last;
  Response response(factory_);
  for (const OutputTensor& tensor : writer_->Write(std::move(delta))) {
    AddOutput(response.get(), tensor);
  }
  const uint32_t flags = is_last ? TRITONSERVER_RESPONSE_COMPLETE_FINAL : 0;
  TRITONSERVER_Error* const error = response.Send(flags, nullptr);
  if (is_last) EndAnswer();
  Check(error);
}

void Client::Refuse(enginery_status status, std::string_view message) {
  const std::lock_guard lock(mutex_);
  if (factory_ != nullptr) SendError(status, message);
}

void Client::AddOutput(TRITONBACKEND_Response* response, const OutputTensor& tensor) const {
  if (!wanted_outputs_.contains(tensor.spec->name)) return;
  TRITONBACKEND_Output* output = nullptr;
  Check(TRITONBACKEND_ResponseOutput(response, &output, tensor.spec->name,
                                     ToTriton(tensor.spec->type), &tensor.num_elements, 1));
  void* buffer = nullptr;
  TRITONSERVER_MemoryType memory_type = TRITONSERVER_MEMORY_CPU;
  int64_t memory_type_id = 0;
  Check(TRITONBACKEND_OutputBuffer(output, &buffer, tensor.data.size(), &memory_type,
                                   &memory_type_id));
  if (memory_type == TRITONSERVER_MEMORY_GPU) {
    throw Error(ENGINERY_NOT_SUPPORTED,
                StrCat(tensor.spec->name,
                       ": the client wants it in GPU memory; the native backend writes to host "
                       "memory alone, ask for it there"));
  }
  if (!tensor.data.empty()) std::memcpy(buffer, tensor.data.data(), tensor.data.size());
}

void Client::SendError(enginery_status status, std::string_view message) {
  TRITONSERVER_Error* const reason = triton::ToTriton(status, message);
  try {
    Response response(factory_);
    LogError(response.Send(TRITONSERVER_RESPONSE_COMPLETE_FINAL, reason), "sending an error");
  } catch (const Error& error) {
    TRITONSERVER_ErrorDelete(reason);
    LogError(TRITONBACKEND_ResponseFactorySendFlags(factory_, TRITONSERVER_RESPONSE_COMPLETE_FINAL),
             "ending a request");
    Log(TRITONSERVER_LOG_ERROR, StrCat("cannot send an error: ", error.what()));
  }
  EndAnswer();
}

void Client::EndAnswer() {
  LogError(TRITONBACKEND_ResponseFactoryDelete(std::exchange(factory_, nullptr)),
           "deleting a response factory");
}

}  // namespace enginery::triton
