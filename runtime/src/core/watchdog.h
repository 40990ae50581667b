// SPDX-License-Identifier: Apache-2.0
//
// Notices a step that lasts too long, writes the state of the serving loop to a file and says so.
// It works on a thread of its own and takes no lock for longer than a moment: the step thread may
// be stuck with any of them.
#ifndef ENGINERY_SRC_CORE_WATCHDOG_H_
#define ENGINERY_SRC_CORE_WATCHDOG_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "base/json_writer.h"
#include "base/periodic_thread.h"

namespace enginery {

struct WatchdogOptions {
  int64_t timeout_ms = 0;  // > 0
  std::string directory;   // where a stall is written
};

class Watchdog {
 public:
  // Writes the members of the file that tell of the serving loop, into an open object.
  using Describe = std::function<void(JsonWriter* json)>;
  // `path`: of the file, "" when it could not be written; `message`: for a person.
  using OnStall = std::function<void(const std::string& path, const std::string& message)>;

  // Both functions are called on the watchdog's thread, once for a step that stalls. `on_stall` may
  // be empty.
  Watchdog(WatchdogOptions options, Describe describe, OnStall on_stall);

  // Around each step, by the step thread: one store of an atomic each.
  void BeginStep();
  void EndStep();

 private:
  void Look();
  void Report(uint64_t age_ns);
  std::string StateJson(uint64_t age_ns) const;

  const WatchdogOptions options_;
  const Describe describe_;
  const OnStall on_stall_;
  std::atomic<uint64_t> started_ns_ = 0;  // 0: no step
  // Of the watchdog's thread: the step at hand, for how long it was seen to go on, and when last.
  uint64_t seen_started_ns_ = 0;
  uint64_t seen_ns_ = 0;
  uint64_t last_look_ns_ = 0;
  PeriodicThread thread_;  // last: it uses the others
};

// The folder for stalls: `directory`, or that for temporary files when it is empty. Throws
// Error(ENGINERY_INVALID_ARGUMENT) unless it is a folder in which files can be made.
std::string CheckedWatchdogDirectory(const std::string& directory);

}  // namespace enginery

#endif  // ENGINERY_SRC_CORE_WATCHDOG_H_
