// SPDX-License-Identifier: Apache-2.0
#include "client.h"

#include <cstdint>
#include <cstring>
#include <utility>

#include "base/str_cat.h"
#include "request_log.h"
#include "triton_calls.h"

// Of libtriton_http_queue.so (http_queue.cc); null where that is not preloaded.
extern "C" __attribute__((weak)) uint64_t enginery_num_http_commands();

namespace enginery::triton {
namespace {

uint64_t NumHttpCommands() {
  return enginery_num_http_commands == nullptr ? 0 : enginery_num_http_commands();
}

// Far longer than Triton server's gRPC thread takes to see that a write was cut off.
constexpr std::chrono::milliseconds kSettleTime(500);

TRITONSERVER_DataType ToTriton(DataType type) {
  switch (type) {
    case DataType::kString:
      return TRITONSERVER_TYPE_BYTES;
    case DataType::kInt32:
      return TRITONSERVER_TYPE_INT32;
    case DataType::kInt64:
      return TRITONSERVER_TYPE_INT64;
    case DataType::kUint8:
      return TRITONSERVER_TYPE_UINT8;
    case DataType::kUint64:
      return TRITONSERVER_TYPE_UINT64;
    case DataType::kFp16:
      return TRITONSERVER_TYPE_FP16;
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

std::string ReadRequestId(TRITONBACKEND_Request* request) {
  const char* id = nullptr;
  Check(TRITONBACKEND_RequestId(request, &id));
  return ClientRequestId(id);
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
  // `error` may be NULL, and stays the caller's.
  TRITONSERVER_Error* Send(uint32_t flags, TRITONSERVER_Error* error) {
    return TRITONBACKEND_ResponseSend(std::exchange(raw_, nullptr), flags, error);
  }

 private:
  TRITONBACKEND_Response* raw_ = nullptr;
};

Client::Client(TRITONBACKEND_Request* request)
    : request_id_(ReadRequestId(request)), wanted_outputs_(WantedOutputs(request)) {
  Check(TRITONBACKEND_ResponseFactoryNew(&factory_, request));
}

Client::~Client() {
  Refuse(ENGINERY_SHUT_DOWN, "the request was dropped");
  if (factory_ != nullptr) EndUnanswered();
}

bool Client::IsGone() {
  const std::lock_guard lock(mutex_);
  return factory_ != nullptr && IsCancelled();
}

bool Client::EndDeparted() {
  const std::lock_guard lock(mutex_);
  if (factory_ == nullptr) return true;
  if (!departed_at_ || Clock::now() - *departed_at_ < kSettleTime) return false;
  EndUnanswered();
  return true;
}

void Client::Send(size_t row, Delta delta) {
  const std::lock_guard lock(mutex_);
  if (factory_ == nullptr) return;
  if (delta.is_last) --num_open_rows_;
  const bool is_last = num_open_rows_ == 0;
  if (HasLeft(is_last)) return;
  if (delta.finish_reason == ENGINERY_FINISH_ERROR) {
    SendError(delta.status, StrCat(enginery_status_name(delta.status), ": ", delta.error), is_last);
    return;
  }
  const std::vector<OutputTensor> tensors = writers_[row]->Write(std::move(delta));
  if (tensors.empty() && !is_last) return;
  Response response(factory_);
  for (const OutputTensor& tensor : tensors) AddOutput(response.get(), tensor);
  if (HasLeft(is_last)) return;
  const uint32_t flags = is_last ? TRITONSERVER_RESPONSE_COMPLETE_FINAL : 0;
  const uint64_t num_http_commands = NumHttpCommands();
  TRITONSERVER_Error* const error = response.Send(flags, nullptr);
  const bool is_http = NumHttpCommands() != num_http_commands;
  if (is_last) {
    EndAnswer();
  } else {
    left_in_send_ = !is_http && IsCancelled();
  }
  Check(error);
}

void Client::Refuse(enginery_status status, std::string_view message) {
  const std::lock_guard lock(mutex_);
  if (factory_ != nullptr && !HasLeft(true)) SendError(status, message, true);
}

void Client::End() {
  const std::lock_guard lock(mutex_);
  if (factory_ == nullptr || HasLeft(true)) return;
  Response response(factory_);
  TRITONSERVER_Error* const error = response.Send(TRITONSERVER_RESPONSE_COMPLETE_FINAL, nullptr);
  EndAnswer();
  Check(error);
}

void Client::AddOutput(TRITONBACKEND_Response* response, const OutputTensor& tensor) const {
  if (!wanted_outputs_.contains(tensor.spec->name)) return;
  TRITONBACKEND_Output* output = nullptr;
  Check(TRITONBACKEND_ResponseOutput(response, &output, tensor.spec->name,
                                     ToTriton(tensor.spec->type), tensor.shape.data(),
                                     static_cast<uint32_t>(tensor.shape.size())));
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

void Client::SendError(enginery_status status, std::string_view message, bool is_final) {
  const uint32_t flags = is_final ? TRITONSERVER_RESPONSE_COMPLETE_FINAL : 0;
  const std::unique_ptr<TRITONSERVER_Error, decltype(&TRITONSERVER_ErrorDelete)> reason(
      triton::ToTriton(status, message), TRITONSERVER_ErrorDelete);
  try {
    Response response(factory_);
    LogError(response.Send(flags, reason.get()), "sending an error");
  } catch (const Error& error) {
    if (is_final) {
      LogError(TRITONBACKEND_ResponseFactorySendFlags(factory_, flags), "ending a request");
    }
    Log(TRITONSERVER_LOG_ERROR, StrCat("cannot send an error: ", error.what()));
  }
  if (is_final) EndAnswer();
}

bool Client::IsCancelled() const {
  bool is_cancelled = false;
  LogError(TRITONBACKEND_ResponseFactoryIsCancelled(factory_, &is_cancelled),
           "asking whether a client left");
  return is_cancelled;
}

bool Client::HasLeft(bool is_last) {
  if (!IsCancelled()) return false;
  if (is_last) departed_at_ = Clock::now();
  return true;
}

void Client::EndUnanswered() {
  if (!left_in_send_) {
    LogError(TRITONBACKEND_ResponseFactorySendFlags(factory_, TRITONSERVER_RESPONSE_COMPLETE_FINAL),
             "ending a request");
  }
  EndAnswer();
}

void Client::EndAnswer() {
  LogError(TRITONBACKEND_ResponseFactoryDelete(std::exchange(factory_, nullptr)),
           "deleting a response factory");
}

}  // namespace enginery::triton
