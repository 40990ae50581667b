// SPDX-License-Identifier: Apache-2.0
#include "core/event.h"

#include <iterator>
#include <utility>

namespace enginery {

void Event::Seal() {
  view.error = error.c_str();
  view.token_ids = token_ids.data();
  view.num_token_ids = token_ids.size();
  view.text = text.c_str();
  view.text_bytes = text.size();
  view.logprobs = logprobs.empty() ? nullptr : logprobs.data();
  view.context_logits = context_logits.empty() ? nullptr : context_logits.data();
  view.generation_logits = generation_logits.empty() ? nullptr : generation_logits.data();
  view.prompt_logprobs = prompt_logprobs.empty() ? nullptr : prompt_logprobs.data();
  view.stop_string = stop_string.c_str();
}

void EventQueue::Push(Events* events) {
  if (events->empty()) return;
  for (const std::unique_ptr<Event>& event : *events) event->Seal();
  {
    const std::lock_guard lock(mutex_);
    events_.insert(events_.end(), std::move_iterator(events->begin()),
                   std::move_iterator(events->end()));
  }
  events->clear();
  changed_.notify_one();
}

void EventQueue::Close() {
  {
    const std::lock_guard lock(mutex_);
    is_closed_ = true;
  }
  changed_.notify_all();
}

bool EventQueue::Take(std::optional<std::chrono::milliseconds> timeout, Events* events) {
  std::unique_lock lock(mutex_);
  const auto is_ready = [this] { return !events_.empty() || is_closed_; };
  if (timeout.has_value()) {
    changed_.wait_for(lock, *timeout, is_ready);
  } else {
    changed_.wait(lock, is_ready);
  }
  events->clear();
  events->swap(events_);
  return !events->empty() || !is_closed_;
}

}  // namespace enginery
