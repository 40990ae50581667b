// SPDX-License-Identifier: Apache-2.0
//
// Adds up what the events of requests say: latencies, lengths, finish reasons, errors. As
// triton_backend/observations.py; both are tested with one golden file.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_OBSERVATIONS_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_OBSERVATIONS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "enginery/enginery.h"

namespace enginery::triton {

enum class Histogram : uint8_t {
  kTimeToFirstToken,
  kTimePerOutputToken,
  kInterTokenLatency,
  kE2eRequestLatency,
  kQueueTime,
  kStepTime,
  kPromptTokens,
  kGenerationTokens,
  kInputTokens,
  kOutputTokens,
};
inline constexpr size_t kNumHistograms = 10;

inline constexpr std::array<std::string_view, 5> kFinishReasons = {"stop", "length", "cancelled",
                                                                   "timeout", "error"};
// Statuses in small letters; the last one stands for all others.
inline constexpr std::array<std::string_view, 9> kErrorCauses = {
    "invalid_argument", "not_found",       "not_supported", "queue_full", "shut_down",
    "out_of_memory",    "executor_failed", "internal",      "other"};

// What a histogram has seen.
struct Distribution {
  std::vector<double> bounds;    // of its buckets, increasing; a bucket holds its own bound
  std::vector<uint64_t> counts;  // one per bucket and one for what is beyond; not cumulative
  double sum = 0;

  // How many values are in this bucket and those below it.
  uint64_t NumUpTo(size_t bucket) const;
};

struct Observed {
  std::array<Distribution, kNumHistograms> histograms;
  std::array<uint64_t, kFinishReasons.size()> finish_reasons{};
  std::array<uint64_t, kErrorCauses.size()> errors{};

  // The runtime counts its steps itself: no event tells of them.
  void SetStepTimes(const enginery_stats& stats);

  const Distribution& operator[](Histogram which) const {
    return histograms[static_cast<size_t>(which)];
  }
};

// Sums since the start; everything may be called from any thread.
class Observations {
 public:
  Observations();

  // Those of a request in their order.
  void Add(const enginery_events* events);
  void Add(const enginery_event& event);
  // The status with which a request was refused.
  void AddError(enginery_status status);
  // A copy of the sums.
  Observed Read() const;

 private:
  // What was observed of a request in flight.
  struct Progress {
    struct Sequence {
      uint64_t last_token_ns = 0;
      uint64_t num_tokens = 0;
    };
    bool is_scheduled = false;
    bool has_first_token = false;
    std::map<int32_t, Sequence> sequences;
  };

  void AddLocked(const enginery_event& event);
  void AddStart(Progress& request, const enginery_event& event);
  void AddGaps(Progress& request, const enginery_event& event);
  void AddSequence(const enginery_event& event);
  void AddEnd(const enginery_event& event, bool is_complete);
  void AddErrorLocked(enginery_status status);
  void Observe(Histogram which, double value, uint64_t times = 1);

  mutable std::mutex mutex_;
  std::unordered_map<uint64_t, Progress> requests_;
  Observed observed_;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_OBSERVATIONS_H_
