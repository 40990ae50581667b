// SPDX-License-Identifier: Apache-2.0
#include "core/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/str_cat.h"
#include "core/statistics.h"

namespace enginery {
namespace {

constexpr uint64_t kNsPerMs = 1'000'000;
constexpr int64_t kLongestPeriodMs = 1000;
constexpr char kSuffix[] = ".json";

// A quarter of the timeout, but a second at most: a stall is noticed so much later than it could
// be.
std::chrono::milliseconds Period(int64_t timeout_ms) {
  return std::chrono::milliseconds(std::clamp<int64_t>(timeout_ms / 4, 1, kLongestPeriodMs));
}

// What counts at most between two looks; more is time in which nothing here ran.
uint64_t LongestGapNs(int64_t timeout_ms) {
  return 2 * static_cast<uint64_t>(std::chrono::nanoseconds(Period(timeout_ms)).count());
}

// Of a new file that nobody else can read: it names clients.
std::string NewFile(const std::string& directory, int* file) {
  std::string path = StrCat(directory, "/enginery-stall-", getpid(), "-XXXXXX", kSuffix);
  *file = mkstemps(path.data(), static_cast<int>(std::strlen(kSuffix)));
  return path;
}

bool WriteAll(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = write(file, text.data(), text.size());
    if (count < 0 && errno != EINTR) return false;
    text.remove_prefix(count < 0 ? 0 : static_cast<size_t>(count));
  }
  return true;
}

// The path of the file, or "" with the reason in *error.
std::string WriteNewFile(const std::string& directory, const std::string& text,
                         std::string* error) {
  int file = -1;
  const std::string path = NewFile(directory, &file);
  bool is_written = file >= 0 && WriteAll(file, text);
  if (!is_written) *error = std::strerror(errno);
  if (file >= 0 && close(file) != 0 && is_written) {
    *error = std::strerror(errno);
    is_written = false;
  }
  return is_written ? path : "";
}

}  // namespace

Watchdog::Watchdog(WatchdogOptions options, Describe describe, OnStall on_stall)
    : options_(std::move(options)),
      describe_(std::move(describe)),
      on_stall_(std::move(on_stall)),
      thread_(Period(options_.timeout_ms), [this] { Look(); }) {}

void Watchdog::BeginStep() { started_ns_.store(MonotonicNs(), std::memory_order_relaxed); }
void Watchdog::EndStep() { started_ns_.store(0, std::memory_order_relaxed); }

void Watchdog::Look() {
  const uint64_t started_ns = started_ns_.load(std::memory_order_relaxed);
  const uint64_t now_ns = MonotonicNs();
  const uint64_t since_last_look_ns = now_ns - std::exchange(last_look_ns_, now_ns);
  if (started_ns != seen_started_ns_) {
    seen_started_ns_ = started_ns;
    seen_ns_ = 0;
    return;
  }
  // A process that was stopped for an hour has not seen its step hang for an hour.
  const auto timeout_ns = static_cast<uint64_t>(options_.timeout_ms) * kNsPerMs;
  const bool was_reported = seen_ns_ >= timeout_ns;
  seen_ns_ += std::min(since_last_look_ns, LongestGapNs(options_.timeout_ms));
  if (started_ns != 0 && !was_reported && seen_ns_ >= timeout_ns) Report(now_ns - started_ns);
}

void Watchdog::Report(uint64_t age_ns) {
  std::string path;
  std::string message = "a step hangs";  // so short that it takes no memory
  try {
    std::string error;
    path = WriteNewFile(options_.directory, StateJson(age_ns), &error);
    const std::string state =
        path.empty() ? StrCat("could not be written to ", options_.directory, ": ", error)
                     : StrCat("is in ", path);
    message = StrCat("a step has taken ", age_ns / kNsPerMs, " ms, watchdog_timeout_ms is ",
                     options_.timeout_ms, ": the state of the serving loop ", state);
  } catch (const std::bad_alloc&) {
    // It is told all the same.
  }
  if (on_stall_) on_stall_(path, message);
}

std::string Watchdog::StateJson(uint64_t age_ns) const {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  JsonWriter json;
  json.BeginObject();
  json.Key("library_version").String(enginery_version());
  json.Key("process_id").Int(getpid());
  json.Key("unix_time_ms").Int(std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
  json.Key("watchdog_timeout_ms").Int(options_.timeout_ms);
  json.Key("step_age_ms").Uint(age_ns / kNsPerMs);
  describe_(&json);
  json.EndObject();
  return json.text() + "\n";
}

std::string CheckedWatchdogDirectory(const std::string& directory) {
  std::error_code error;
  const std::string path =
      directory.empty() ? std::filesystem::temp_directory_path(error).string() : directory;
  if (!error && std::filesystem::is_directory(path, error) && access(path.c_str(), W_OK) == 0) {
    return path;
  }
  throw Error(ENGINERY_INVALID_ARGUMENT,
              StrCat("runtime option watchdog_dir is ", path.empty() ? "empty" : path,
                     "; accepted: a folder in which files can be made; make it, name another, or "
                     "set watchdog_timeout_ms to 0"));
}

}  // namespace enginery
