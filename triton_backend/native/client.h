// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_CLIENT_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_CLIENT_H_

#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "responses.h"
#include "triton_api.h"

namespace enginery::triton {

// Who gets the responses of one request. Everything may be called from any thread.
class Client {
 public:
  // Throws Error when Triton server refuses. `request` is read during the call only.
  explicit Client(TRITONBACKEND_Request* request);
  // A request that was not answered to its end is told so.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Before the first Send.
  void SetWriter(ResponseWriter writer) { writer_ = std::move(writer); }

  // Whether the client cancelled or went away before its last response.
  bool IsGone();

  // Sends one response, the last one where the delta says so. Throws Error when Triton server does
  // not take it; a last one counts as sent all the same.
  void Send(Delta delta);

  // Ends the request with an error; nothing when it has ended.
  void Refuse(enginery_status status, std::string_view message);

 private:
  // Triton server's response while it is not sent.
  class Response;

  void AddOutput(TRITONBACKEND_Response* response, const OutputTensor& tensor) const;
  void SendError(enginery_status status, std::string_view message);
  void EndAnswer();

  std::mutex mutex_;
  TRITONBACKEND_ResponseFactory* factory_ = nullptr;  // NULL once all was answered
  std::set<std::string, std::less<>> wanted_outputs_;
  std::optional<ResponseWriter> writer_;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_CLIENT_H_
