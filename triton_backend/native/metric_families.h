// SPDX-License-Identifier: Apache-2.0
//
// The families of metrics on Triton server's /metrics: those of triton_backend/metric_families.py.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_METRIC_FAMILIES_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_METRIC_FAMILIES_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "enginery/enginery.h"
#include "observations.h"

namespace enginery::triton {

// What does not change while the runtime runs.
struct Limits {
  uint64_t max_batch_size = 0;
  uint64_t tokens_per_block = 0;
};

// The last step; zeros when nothing is running.
struct Step {
  uint64_t num_sequences = 0;
  uint64_t num_prefill_tokens = 0;
  uint64_t num_decode_tokens = 0;
  uint64_t num_preempted = 0;
};

// The last entry of enginery_runtime_iterations_json; zeros when there is none. Throws Error when
// it is no such JSON.
Step ReadLastStep(std::string_view json);

// All that the metrics of one moment are made of.
struct Reading {
  enginery_stats stats{};
  Step step;
  Limits limits;
  Observed observed;
  double read_at = 0;  // Unix seconds, taken before everything else
};

struct FamilyValue {
  const char* label_value;  // "" where the family has no label
  double (*value)(const Reading& reading);
};

// Gauges or counters that differ in one label, or a single one.
struct Family {
  const char* name;
  const char* help;
  const char* label;  // "": one metric without a label of its own
  std::span<const FamilyValue> values;
};

// A histogram: counters NAME_bucket with the label `le`, NAME_sum and NAME_count.
struct HistogramFamily {
  const char* name;
  const char* help;
  const char* buckets;      // upper bounds as `le` shows them, separated by spaces
  const char* label;        // "": it has no label of its own
  const char* label_value;  // "" then
};

std::span<const Family> Gauges();
std::span<const Family> Counters();
// In the order of the enum Histogram.
std::span<const HistogramFamily> Histograms();

// The upper bounds of the buckets as `le` shows them.
std::vector<std::string> BucketNames(const HistogramFamily& family);

// A gauge of its own: Unix time in seconds; the other metrics are not older.
inline constexpr const char* kTimestampName = "enginery_metrics_timestamp_seconds";
inline constexpr const char* kTimestampHelp = "Unix time; the other metrics are not older";

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_METRIC_FAMILIES_H_
