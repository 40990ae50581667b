// SPDX-License-Identifier: Apache-2.0
//
// One line per request at its end, on standard error: JSON, or the same fields as name=value. As
// triton_backend/request_log.py; both are tested with one golden file.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_LOG_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_LOG_H_

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "enginery/enginery.h"
#include "responses.h"

namespace enginery::triton {

enum class LogFormat : uint8_t { kOff, kText, kJson };

// Throws Error (INVALID_ARGUMENT) when it is neither "text" nor "json".
LogFormat ReadLogFormat(std::string_view name);

// One moment on both clocks.
struct Now {
  int64_t unix_ms = 0;
  int64_t monotonic_ns = 0;

  static Now Read();
};

// What a client calls its request, for logs: a remark for what is not fit to be there.
std::string ClientRequestId(std::string_view id);

// Everything may be called from any thread.
class RequestLog {
 public:
  // Takes each line, with its end.
  using Write = std::function<void(const std::string& line)>;

  RequestLog(LogFormat format, std::string model_name, Write write = WriteStderr,
             std::function<Now()> clock = Now::Read);

  // Takes what is new of a request in its order; the last of it ends the request's line.
  void Add(const Delta& delta, std::string_view client_request_id);
  // Takes a request that the runtime never had.
  void Refuse(std::string_view client_request_id, enginery_status status, std::string_view error);

 private:
  // What is known of a request in flight.
  struct Progress {
    int64_t first_token_ns = 0;
    std::map<int32_t, int64_t> num_output_tokens;  // by the index of the sequence
  };
  class Line;

  // A line that tells no numbers yet.
  Line Begin(const Now& now, std::string_view client_request_id) const;
  static void WriteStderr(const std::string& line);

  const LogFormat format_;
  const std::string model_name_;
  const Write write_;
  const std::function<Now()> clock_;
  std::mutex mutex_;
  std::unordered_map<uint64_t, Progress> requests_;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_REQUEST_LOG_H_
