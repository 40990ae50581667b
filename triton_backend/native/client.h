// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_CLIENT_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_CLIENT_H_

#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "request_names.h"
#include "responses.h"
#include "triton_api.h"

namespace enginery::triton {

// Who gets the responses to one request, of whose rows each is a request of the runtime. Everything
// may be called from any thread.
class Client {
 public:
  // Throws Error when Triton server refuses. `request` is read during the call only.
  explicit Client(TRITONBACKEND_Request* request);
  // A request that was not answered to its end is told so.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Before the first Send: what the request is called, and what writes the responses to each row.
  void SetRows(RequestNames names, std::vector<std::unique_ptr<EventWriter>> writers) {
    names_ = std::move(names);
    writers_ = std::move(writers);
    num_open_rows_ = writers_.size();
  }
  const RequestNames& names() const { return names_; }
  // What the client calls the request, for logs.
  const std::string& request_id() const { return request_id_; }

  // Whether the client cancelled or went away before its last response.
  bool IsGone();

  // True when the request has ended. One whose client left waits for this call after its last
  // response is past, and ends when that is safe: see departed_at_.
  bool EndDeparted();

  // Sends one response, the last one where the delta is the last of the last row. Throws Error when
  // Triton server does not take it; a last one counts as sent all the same. Nothing is sent to a
  // client that is gone.
  void Send(size_t row, Delta delta);

  // Ends the request with a response without outputs.
  void End();

  // Ends the request with an error; nothing when it has ended.
  void Refuse(enginery_status status, std::string_view message);

 private:
  // Triton server's response while it is not sent.
  class Response;

  void AddOutput(TRITONBACKEND_Response* response, const OutputTensor& tensor) const;
  void SendError(enginery_status status, std::string_view message, bool is_final);
  bool IsCancelled() const;
  // Whether the client is gone, so that nothing may be sent; `is_last`: nor is anything left.
  bool HasLeft(bool is_last);
  // Ends the request without a response.
  void EndUnanswered();
  void EndAnswer();

  using Clock = std::chrono::steady_clock;

  const std::string request_id_;
  std::mutex mutex_;
  TRITONBACKEND_ResponseFactory* factory_ = nullptr;  // NULL once all was answered
  std::set<std::string, std::less<>> wanted_outputs_;
  RequestNames names_;
  std::vector<std::unique_ptr<EventWriter>> writers_;
  size_t num_open_rows_ = 0;
  // Triton server 2.51 gives up a cancelled stream's state each time that a write or the request's
  // end comes back to its gRPC thread: an end that overtakes a write gives it up twice. So the end
  // is sent when the last write must have come back.
  std::optional<Clock::time_point> departed_at_;
  // It also gives up the state of a gRPC stream that is cancelled while a response is handed over,
  // if that response is written all the same. Nobody can tell, so such a request gets no end: some
  // memory of Triton server's stays, in place of a server that falls.
  bool left_in_send_ = false;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_CLIENT_H_
