// SPDX-License-Identifier: Apache-2.0
#include "core/statistics.h"

#include <algorithm>
#include <bit>
#include <chrono>

#include "base/json_writer.h"

namespace enginery {

uint64_t MonotonicNs() {
  // steady_clock is CLOCK_MONOTONIC on Linux.
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::nanoseconds(now).count());
}

size_t StepTimeIndex(uint64_t duration_ns) {
  if (duration_ns == 0) return 0;
  const auto index = static_cast<size_t>(std::bit_width((duration_ns - 1) / ENGINERY_STEP_TIME_NS));
  return std::min<size_t>(index, ENGINERY_NUM_STEP_TIMES - 1);
}

void IterationRing::Add(const IterationStats& stats) {
  if (ring_.size() < capacity_) {
    ring_.push_back(stats);
  } else if (capacity_ > 0) {
    ring_[num_added_ % capacity_] = stats;
  }
  ++num_added_;
}

std::string IterationRing::ToJson() const {
  JsonWriter json;
  json.BeginArray();
  for (size_t i = num_added_ - ring_.size(); i < num_added_; ++i) {
    const IterationStats& s = ring_[i % capacity_];
    json.BeginObject();
    json.Key("iteration").Uint(s.iteration);
    json.Key("start_ns").Uint(s.start_ns);
    json.Key("duration_ns").Uint(s.duration_ns);
    json.Key("executor_ns").Uint(s.executor_ns);
    json.Key("num_sequences").Uint(s.num_sequences);
    json.Key("num_prefill_tokens").Uint(s.num_prefill_tokens);
    json.Key("num_decode_tokens").Uint(s.num_decode_tokens);
    json.Key("num_waiting").Uint(s.num_waiting);
    json.Key("num_used_blocks").Uint(s.num_used_blocks);
    json.Key("num_preempted").Uint(s.num_preempted);
    json.EndObject();
  }
  json.EndArray();
  return json.text();
}

}  // namespace enginery
