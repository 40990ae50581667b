// SPDX-License-Identifier: Apache-2.0
#include "request_log.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <numeric>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/json_writer.h"
#include "base/str_cat.h"
#include "base/utf8.h"

namespace enginery::triton {
namespace {

constexpr size_t kMaxIdBytes = 256;  // as the runtime has it
constexpr int64_t kMillisecondsPerSecond = 1000;
constexpr int64_t kNanosecondsPerMicrosecond = 1000;

// What a value of the text form may hold without quotes.
bool IsPlain(std::string_view text) {
  constexpr std::string_view kOthers = "_.:/+-";
  return !text.empty() && std::ranges::all_of(text, [&](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
           kOthers.find(c) != std::string_view::npos;
  });
}

std::string Quote(std::string_view text) {
  JsonWriter json;
  json.String(text);
  return json.text();
}

std::string ShowTime(int64_t unix_ms) {
  const std::time_t seconds = unix_ms / kMillisecondsPerSecond;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  const size_t size = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  char fraction[8];
  std::snprintf(fraction, sizeof fraction, ".%03dZ",
                static_cast<int>(unix_ms % kMillisecondsPerSecond));
  return std::string(text, size) + fraction;
}

// 0 stands for what has not happened.
std::optional<int64_t> Microseconds(int64_t start_ns, int64_t end_ns) {
  if (start_ns == 0 || end_ns == 0) return std::nullopt;
  return (end_ns - start_ns) / kNanosecondsPerMicrosecond;
}

}  // namespace

// The fields of a line, in order.
class RequestLog::Line {
 public:
  explicit Line(bool is_json) : is_json_(is_json) { json_.BeginObject(); }

  Line& Text(std::string_view name, std::string_view value) {
    json_.Key(name).String(value);
    AddPair(name, IsPlain(value) ? std::string(value) : Quote(value));
    return *this;
  }
  Line& Number(std::string_view name, std::optional<int64_t> value) {
    json_.Key(name);
    value ? json_.Int(*value) : json_.Null();
    AddPair(name, value ? StrCat(*value) : "-");
    return *this;
  }
  std::string End() {
    json_.EndObject();
    return StrCat(is_json_ ? json_.text() : pairs_, "\n");
  }

 private:
  void AddPair(std::string_view name, std::string_view value) {
    pairs_ += StrCat(pairs_.empty() ? "" : " ", name, "=", value);
  }

  const bool is_json_;
  JsonWriter json_;
  std::string pairs_;
};

LogFormat ReadLogFormat(std::string_view name) {
  if (name == "text") return LogFormat::kText;
  if (name == "json") return LogFormat::kJson;
  throw Error(ENGINERY_INVALID_ARGUMENT, "must be one of text, json; leave it out for no lines");
}

Now Now::Read() {
  const auto unix = std::chrono::system_clock::now().time_since_epoch();
  const auto monotonic = std::chrono::steady_clock::now().time_since_epoch();
  return {std::chrono::duration_cast<std::chrono::milliseconds>(unix).count(),
          std::chrono::nanoseconds(monotonic).count()};
}

std::string ClientRequestId(std::string_view id) {
  if (!IsUtf8(id)) return "(not UTF-8)";  // HTTP lets it through
  return id.size() <= kMaxIdBytes ? std::string(id) : StrCat("(", id.size(), " bytes)");
}

RequestLog::RequestLog(LogFormat format, std::string model_name, Write write,
                       std::function<Now()> clock)
    : format_(format),
      model_name_(std::move(model_name)),
      write_(std::move(write)),
      clock_(std::move(clock)) {}

void RequestLog::Add(const Delta& delta, std::string_view client_request_id) {
  if (format_ == LogFormat::kOff) return;
  Progress request;
  {
    const std::lock_guard lock(mutex_);
    Progress& known = requests_[delta.request_id];
    if (known.first_token_ns == 0) known.first_token_ns = delta.first_token_ns;
    known.num_output_tokens[delta.sequence_index] = delta.num_output_tokens;
    if (!delta.is_last) return;
    request = std::move(known);
    requests_.erase(delta.request_id);
  }
  const Now now = clock_();
  const int64_t num_output_tokens = std::accumulate(
      request.num_output_tokens.begin(), request.num_output_tokens.end(), int64_t{0},
      [](int64_t sum, const auto& entry) { return sum + entry.second; });
  write_(Begin(now, client_request_id)
             .Number("request_id", static_cast<int64_t>(delta.request_id))
             .Text("finish_reason", FinishReason(delta.finish_reason))
             .Text("status", enginery_status_name(delta.status))
             .Number("num_prompt_tokens", delta.num_prompt_tokens)
             .Number("num_reused_tokens", delta.num_reused_tokens)
             .Number("num_output_tokens", num_output_tokens)
             .Number("queue_us", Microseconds(delta.arrival_ns, delta.first_scheduled_ns))
             .Number("ttft_us", Microseconds(delta.arrival_ns, request.first_token_ns))
             .Number("e2e_us", Microseconds(delta.arrival_ns, now.monotonic_ns))
             .Text("error", delta.error)
             .End());
}

void RequestLog::Refuse(std::string_view client_request_id, enginery_status status,
                        std::string_view error) {
  if (format_ == LogFormat::kOff) return;
  Line line = Begin(clock_(), client_request_id);
  line.Number("request_id", std::nullopt)
      .Text("finish_reason", FinishReason(ENGINERY_FINISH_ERROR))
      .Text("status", enginery_status_name(status));
  for (const char* name : {"num_prompt_tokens", "num_reused_tokens", "num_output_tokens",
                           "queue_us", "ttft_us", "e2e_us"}) {
    line.Number(name, std::nullopt);
  }
  write_(line.Text("error", error).End());
}

RequestLog::Line RequestLog::Begin(const Now& now, std::string_view client_request_id) const {
  Line line(format_ == LogFormat::kJson);
  line.Text("event", "request")
      .Text("time", ShowTime(now.unix_ms))
      .Text("model", model_name_)
      .Text("client_request_id", client_request_id);
  return line;
}

// In one piece, so that no other line of the server comes between.
void RequestLog::WriteStderr(const std::string& line) {
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace enginery::triton
