// SPDX-License-Identifier: Apache-2.0
//
// Writes a scheduled step as the ScheduledBatch that the executor gets (enginery_batch in the C
// interface).
#ifndef ENGINERY_SRC_SCHEDULE_BATCH_BUILDER_H_
#define ENGINERY_SRC_SCHEDULE_BATCH_BUILDER_H_

#include <cstdint>
#include <vector>

#include "cache/block_manager.h"
#include "enginery/enginery.h"
#include "schedule/scheduler.h"

namespace enginery {

class BatchBuilder {
 public:
  // The batch, valid until the next call: it lies in one buffer, which is allocated anew only to
  // grow.
  //
  // Logits rows come in the order of the step's sequences and within one by position. Of a sequence
  // that draws, num_slots sampling records refer to its last row, with sequence_index counted from
  // its own.
  const enginery_batch* Build(uint64_t step_id, const ScheduledStep& step,
                              const BlockManager& blocks);

 private:
  std::vector<uint64_t> buffer_;  // words, for the alignment
};

}  // namespace enginery

#endif  // ENGINERY_SRC_SCHEDULE_BATCH_BUILDER_H_
