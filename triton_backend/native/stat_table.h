// SPDX-License-Identifier: Apache-2.0
//
// What the runtime counts, in the families of triton_backend/metrics.py.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_STAT_TABLE_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_STAT_TABLE_H_

#include <cstdint>
#include <span>

#include "enginery/enginery.h"

namespace enginery::triton {

struct StatCounter {
  const char* name;
  const char* help;
  uint64_t (*value)(const enginery_stats& stats);
};

struct StatGauge {
  const char* label_value;
  uint64_t (*value)(const enginery_stats& stats);
};

// Gauges that differ in one label.
struct StatGaugeFamily {
  const char* name;
  const char* help;
  const char* label;
  std::span<const StatGauge> gauges;
};

std::span<const StatCounter> StatCounters();
std::span<const StatGaugeFamily> StatGaugeFamilies();

// A gauge of its own: Unix time in seconds; the other metrics are not older.
inline constexpr const char* kTimestampName = "enginery_metrics_timestamp_seconds";
inline constexpr const char* kTimestampHelp = "Unix time; the other metrics are not older";

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_STAT_TABLE_H_
