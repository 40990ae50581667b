// SPDX-License-Identifier: Apache-2.0
//
// The serving loop with its threads.
//
//   callers --Submit, Cancel--> inbox --> step thread (StepLoop) --> EventQueue --> Poll, or the
//                                                                   delivery thread's on_event
//
//   watchdog --on_stall--> whoever ends the process, when a step does not come to its end
//
// The step thread owns the requests, waits for nobody while it has any, and sleeps when it has
// none.
#ifndef ENGINERY_SRC_CORE_RUNTIME_H_
#define ENGINERY_SRC_CORE_RUNTIME_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "core/event.h"
#include "core/request.h"
#include "core/runtime_config.h"
#include "core/statistics.h"
#include "core/step_loop.h"
#include "core/watchdog.h"
#include "enginery/enginery.h"

namespace enginery {

class Runtime {
 public:
  using OnEvent = std::function<void(const enginery_event& event)>;

  // Initialises `executor` and starts the threads. `on_event` empty: events wait for Poll. Calls
  // executor.destroy (which may be NULL) when it is destroyed, not when the constructor throws.
  Runtime(const RuntimeConfig& config, const enginery_executor& executor, OnEvent on_event,
          Watchdog::OnStall on_stall = nullptr);
  // Cancels what runs. Events not yet delivered go to on_event first, or are dropped.
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // As in the C header; failures are thrown as Error.
  uint64_t Submit(const enginery_request& request);
  void Cancel(uint64_t request_id);
  void Shutdown(bool drain, std::optional<std::chrono::milliseconds> timeout);
  // False: shut down and all events taken.
  bool Poll(std::optional<std::chrono::milliseconds> timeout, Events* events);
  enginery_stats Stats() const;
  std::string IterationsJson() const;

 private:
  void RunSteps();
  void RunDelivery();
  // Moves what callers left to the loop; sleeps while there is nothing to do. False: stop.
  bool TakeInbox();
  void RunOneStep();
  void Publish(bool has_stepped);
  // For the watchdog, on its thread.
  void Describe(JsonWriter* json) const;

  const RuntimeConfig config_;
  const enginery_executor executor_;
  const OnEvent on_event_;
  EventQueue events_;
  std::unique_ptr<StepLoop> loop_;  // the step thread's, but for CheckFits

  mutable std::mutex mutex_;         // guards what follows
  std::condition_variable wake_;     // the step thread
  std::condition_variable settled_;  // whoever drains
  std::vector<std::unique_ptr<Request>> inbox_;
  std::vector<uint64_t> cancelled_;
  bool cancel_all_ = false;
  bool is_accepting_ = true;
  bool is_stopping_ = false;
  uint64_t last_id_ = 0;
  std::unordered_set<uint64_t> live_;  // submitted and not ended
  bool is_settled_ = true;             // none live, and all events in the queue
  enginery_stats stats_ = {};
  IterationRing iterations_;

  // Of the step thread, kept for their memory.
  std::vector<std::unique_ptr<Request>> taken_;
  std::vector<uint64_t> taken_cancelled_;

  std::unique_ptr<Watchdog> watchdog_;  // null: off
  std::thread step_thread_;
  std::thread delivery_thread_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_CORE_RUNTIME_H_
