// SPDX-License-Identifier: Apache-2.0
//
// Parts of the watchdog's file: each function writes members of an object that is open, or one
// entry of an open array.
#ifndef ENGINERY_SRC_CORE_STATE_JSON_H_
#define ENGINERY_SRC_CORE_STATE_JSON_H_

#include <chrono>
#include <cstdint>
#include <span>

#include "base/json_writer.h"
#include "core/request.h"
#include "core/runtime_config.h"
#include "enginery/enginery.h"

namespace enginery {

// What the watchdog waits for a lock: far longer than anyone holds one who is not stuck.
inline constexpr std::chrono::milliseconds kLockPatience(100);

void DescribeConfig(const RuntimeConfig& config, JsonWriter* json);
void DescribeStats(const enginery_stats& stats, JsonWriter* json);
// An entry of the queue.
void DescribeWaiting(const OutputSequence& sequence, JsonWriter* json);
// An entry of the batch. `num_scheduled_tokens`: of the sequence in this step.
void DescribeRunning(const OutputSequence& sequence, int64_t num_scheduled_tokens,
                     std::span<const int32_t> block_table, JsonWriter* json);

}  // namespace enginery

#endif  // ENGINERY_SRC_CORE_STATE_JSON_H_
