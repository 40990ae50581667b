// SPDX-License-Identifier: Apache-2.0
//
// What the scheduler knows of a sequence: its token ids, how far their KV is computed, and where it
// stands in line.
//
//     token_ids:  [ prompt ............ | output ........ ]
//                 [ computed .... )[ scheduled next )
//
// Between steps at least one token is not computed yet.
//
// There is no phase: a step computes the next tokens of a sequence, and when it reaches the last
// one its logits give the token that follows. A prompt has many tokens to compute, a decode one, a
// preempted sequence all of them again.
#ifndef ENGINERY_SRC_SCHEDULE_SEQUENCE_H_
#define ENGINERY_SRC_SCHEDULE_SEQUENCE_H_

#include <cstdint>
#include <vector>

#include "cache/block_manager.h"
#include "enginery/enginery.h"

namespace enginery {

struct Sequence {
  // Set by whoever adds it.
  std::vector<int32_t> token_ids;  // prompt, then output as it is drawn
  int64_t num_prompt_tokens = 0;
  int64_t max_tokens = 1;
  int32_t priority = 0;  // larger first
  uint64_t ticket = 0;   // order of arrival; sequences of one request share it
  int32_t index = 0;     // within its request
  int32_t num_slots =
      1;  // sequences that its next token makes of it (num_return_sequences before the first)
  bool wants_context_logits = false;
  enginery_sample_record sampling =
      {};  // of its next token; logit_row and position are filled in per step

  // Kept by the scheduler.
  enum class State { kIdle, kWaiting, kRunning };
  State state = State::kIdle;
  BlockManager::SequenceId blocks = -1;
  int64_t num_reserved_blocks = 0;  // of its longest end
  int64_t num_computed_tokens = 0;
  int64_t num_context_logits = 0;  // prompt positions whose logits were given
  int64_t num_reused_tokens = 0;   // prompt tokens from the prefix cache when it was first admitted
  uint32_t num_preemptions = 0;
  bool was_admitted = false;

  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t num_output_tokens() const { return num_tokens() - num_prompt_tokens; }
  int64_t num_pending_tokens() const { return num_tokens() - num_computed_tokens; }
};

// Order of the queue and of the batch: priority, then arrival.
struct ComesBefore {
  bool operator()(const Sequence* a, const Sequence* b) const {
    if (a->priority != b->priority) return a->priority > b->priority;
    if (a->ticket != b->ticket) return a->ticket < b->ticket;
    return a->index < b->index;
  }
};

}  // namespace enginery

#endif  // ENGINERY_SRC_SCHEDULE_SEQUENCE_H_
