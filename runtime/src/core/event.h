// SPDX-License-Identifier: Apache-2.0
//
// Events and the queue on which they leave the step thread.
#ifndef ENGINERY_SRC_CORE_EVENT_H_
#define ENGINERY_SRC_CORE_EVENT_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "enginery/enginery.h"

namespace enginery {

// An event and what its pointers point to.
struct Event {
  enginery_event view = {};
  std::vector<int32_t> token_ids;
  std::string text;
  std::vector<enginery_logprob> logprobs;
  std::vector<float> context_logits;
  std::vector<float> generation_logits;
  std::vector<enginery_logprob> prompt_logprobs;
  std::string error;
  std::string stop_string;

  // Points `view` at the members, which must not change afterwards.
  void Seal();
};

using Events = std::vector<std::unique_ptr<Event>>;

// Unbounded: Push never waits for the one who takes, so a slow taker grows this queue and delays
// nobody. Thread-safe.
class EventQueue {
 public:
  // Moves all of `events`, which is left empty.
  void Push(Events* events);
  // No event follows. What is queued can still be taken.
  void Close();
  // Waits until there are events, the queue is closed, or the time is up (nullopt: for ever), and
  // moves all events to `events`, in order. False: closed and none left.
  bool Take(std::optional<std::chrono::milliseconds> timeout, Events* events);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  Events events_;
  bool is_closed_ = false;
};

}  // namespace enginery

// What the C interface hands out.
struct enginery_events {
  enginery::Events events;
};

#endif  // ENGINERY_SRC_CORE_EVENT_H_
