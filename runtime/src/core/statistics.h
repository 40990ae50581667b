// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_CORE_STATISTICS_H_
#define ENGINERY_SRC_CORE_STATISTICS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "enginery/enginery.h"

namespace enginery {

uint64_t MonotonicNs();

// The entry of enginery_stats.step_time_counts that counts a step.
size_t StepTimeIndex(uint64_t duration_ns);

struct IterationStats {
  uint64_t iteration = 0;
  uint64_t start_ns = 0;
  uint64_t duration_ns = 0;
  uint64_t executor_ns = 0;
  uint64_t num_sequences = 0;
  uint64_t num_prefill_tokens = 0;
  uint64_t num_decode_tokens = 0;
  uint64_t num_waiting = 0;
  uint64_t num_used_blocks = 0;
  uint64_t num_preempted = 0;
};

// The last `capacity` iterations. Not thread-safe.
class IterationRing {
 public:
  explicit IterationRing(int64_t capacity) : capacity_(static_cast<size_t>(capacity)) {}

  void Add(const IterationStats& stats);
  // A JSON array, oldest first; the members are named in the C header.
  std::string ToJson() const;

 private:
  const size_t capacity_;
  size_t num_added_ = 0;
  std::vector<IterationStats>
      ring_;  // grows to capacity_, then iteration i stands at i % capacity_
};

}  // namespace enginery

#endif  // ENGINERY_SRC_CORE_STATISTICS_H_
