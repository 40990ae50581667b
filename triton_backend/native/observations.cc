// SPDX-License-Identifier: Apache-2.0
#include "observations.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "metric_families.h"

namespace enginery::triton {
namespace {

constexpr double kNanoseconds = 1e9;

// From an earlier to a later time of an event.
double Seconds(uint64_t earlier_ns, uint64_t later_ns) {
  return static_cast<double>(static_cast<int64_t>(later_ns - earlier_ns)) / kNanoseconds;
}

bool IsComplete(int32_t finish_reason) {
  return finish_reason == ENGINERY_FINISH_STOP || finish_reason == ENGINERY_FINISH_END_ID ||
         finish_reason == ENGINERY_FINISH_LENGTH;
}

// Index into kFinishReasons.
size_t FinishIndex(int32_t finish_reason) {
  switch (finish_reason) {
    case ENGINERY_FINISH_END_ID:
    case ENGINERY_FINISH_STOP:
      return 0;
    case ENGINERY_FINISH_LENGTH:
      return 1;
    case ENGINERY_FINISH_CANCELLED:
      return 2;
    case ENGINERY_FINISH_TIMEOUT:
      return 3;
    default:
      return 4;
  }
}

}  // namespace

uint64_t Distribution::NumUpTo(size_t bucket) const {
  return std::accumulate(counts.begin(), counts.begin() + static_cast<ptrdiff_t>(bucket) + 1,
                         uint64_t{0});
}

void Observed::SetStepTimes(const enginery_stats& stats) {
  Distribution& step_time = histograms[static_cast<size_t>(Histogram::kStepTime)];
  std::ranges::copy(stats.step_time_counts, step_time.counts.begin());
  step_time.sum = static_cast<double>(stats.step_ns) / kNanoseconds;
}

Observations::Observations() {
  for (size_t i = 0; i < kNumHistograms; ++i) {
    Distribution& distribution = observed_.histograms[i];
    for (const std::string& name : BucketNames(Histograms()[i])) {
      distribution.bounds.push_back(std::stod(name));
    }
    distribution.counts.resize(distribution.bounds.size() + 1);
  }
}

void Observations::Add(const enginery_events* events) {
  const std::lock_guard lock(mutex_);
  const uint64_t count = enginery_events_count(events);
  for (uint64_t i = 0; i < count; ++i) AddLocked(*enginery_events_get(events, i));
}

void Observations::Add(const enginery_event& event) {
  const std::lock_guard lock(mutex_);
  AddLocked(event);
}

void Observations::AddError(enginery_status status) {
  const std::lock_guard lock(mutex_);
  AddErrorLocked(status);
}

Observed Observations::Read() const {
  const std::lock_guard lock(mutex_);
  return observed_;
}

void Observations::AddLocked(const enginery_event& event) {
  Progress& request = requests_[event.request_id];
  if (event.arrival_ns != 0) AddStart(request, event);
  if (event.last_token_ns != 0 && event.first_token_ns != 0) AddGaps(request, event);
  const bool is_complete = IsComplete(event.finish_reason);
  if (is_complete) AddSequence(event);
  if (event.is_last != 0) {
    requests_.erase(event.request_id);
    AddEnd(event, is_complete);
  }
}

void Observations::AddStart(Progress& request, const enginery_event& event) {
  if (!request.is_scheduled && event.first_scheduled_ns != 0) {
    request.is_scheduled = true;
    Observe(Histogram::kQueueTime, Seconds(event.arrival_ns, event.first_scheduled_ns));
  }
  if (!request.has_first_token && event.first_token_ns != 0) {
    request.has_first_token = true;
    Observe(Histogram::kTimeToFirstToken, Seconds(event.arrival_ns, event.first_token_ns));
  }
}

void Observations::AddGaps(Progress& request, const enginery_event& event) {
  const auto before = request.sequences.find(event.sequence_index);
  Progress::Sequence sequence{event.first_token_ns, 1};
  if (before != request.sequences.end()) {
    sequence = before->second;
  } else if (event.finish_reason != ENGINERY_FINISH_NONE) {
    // One event in all: when its tokens came is not known, as it does not stream.
    return;
  }
  if (event.num_output_tokens > sequence.num_tokens) {
    const uint64_t num_new = event.num_output_tokens - sequence.num_tokens;
    Observe(Histogram::kInterTokenLatency,
            Seconds(sequence.last_token_ns, event.last_token_ns) / static_cast<double>(num_new),
            num_new);
  }
  request.sequences[event.sequence_index] = {event.last_token_ns,
                                             std::max<uint64_t>(1, event.num_output_tokens)};
}

void Observations::AddSequence(const enginery_event& event) {
  const auto num_tokens = static_cast<double>(event.num_output_tokens);
  Observe(Histogram::kGenerationTokens, num_tokens);
  Observe(Histogram::kOutputTokens, num_tokens);
  if (event.num_output_tokens > 1 && event.first_token_ns != 0 && event.last_token_ns != 0) {
    Observe(Histogram::kTimePerOutputToken,
            Seconds(event.first_token_ns, event.last_token_ns) / (num_tokens - 1));
  }
}

void Observations::AddEnd(const enginery_event& event, bool is_complete) {
  ++observed_.finish_reasons[FinishIndex(event.finish_reason)];
  if (event.finish_reason == ENGINERY_FINISH_ERROR) AddErrorLocked(event.status);
  if (!is_complete) return;
  const auto num_tokens = static_cast<double>(event.num_prompt_tokens);
  Observe(Histogram::kPromptTokens, num_tokens);
  Observe(Histogram::kInputTokens, num_tokens);
  if (event.last_token_ns != 0 && event.arrival_ns != 0) {
    Observe(Histogram::kE2eRequestLatency, Seconds(event.arrival_ns, event.last_token_ns));
  }
}

void Observations::AddErrorLocked(enginery_status status) {
  std::string cause = enginery_status_name(status);
  for (char& letter : cause) {
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  const auto found = std::ranges::find(kErrorCauses, cause);
  const auto last = std::prev(kErrorCauses.end());
  ++observed_.errors[static_cast<size_t>((found == kErrorCauses.end() ? last : found) -
                                         kErrorCauses.begin())];
}

void Observations::Observe(Histogram which, double value, uint64_t times) {
  Distribution& distribution = observed_.histograms[static_cast<size_t>(which)];
  const auto bucket = std::ranges::lower_bound(distribution.bounds, value);
  distribution.counts[static_cast<size_t>(bucket - distribution.bounds.begin())] += times;
  distribution.sum += value * static_cast<double>(times);
}

}  // namespace enginery::triton
