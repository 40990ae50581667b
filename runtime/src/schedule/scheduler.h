// SPDX-License-Identifier: Apache-2.0
//
// In-flight batching: before each step, which sequences take part with how many tokens. Pure logic
// on integers over the block manager; it knows neither model nor clock.
//
// A step is filled in this order, each in priority and arrival order:
//   1. decodes of running sequences, one token each. They always fit: max_num_tokens bounds the
//      sequences in flight too;
//   2. pieces of prompts of running sequences, sharing what is left of max_num_tokens;
//   3. admission from the queue, strictly in order: the first that does not fit ends it.
//
// Who is admitted, and what happens when blocks run out:
//   GUARANTEED_NO_EVICT  A request is admitted when its longest end fits beside those of all
//                        running: blocks never run out.
//   MAX_UTILIZATION      A sequence is admitted when the tokens it has fit, with one block to
//                        spare per running sequence. When a decode finds no block, the last in
//                        order of those running is preempted: it loses its blocks, returns to the
//                        queue at its old place and is computed again. A step that preempted
//                        admits none. Each sequence alone fits the pool (checked on submit), so
//                        the first in order always proceeds.
//   STATIC_BATCH         As GUARANTEED_NO_EVICT, but admission waits until nothing runs.
//
// Not thread-safe. Sequences belong to the caller and must stay in place until finished.
#ifndef ENGINERY_SRC_SCHEDULE_SCHEDULER_H_
#define ENGINERY_SRC_SCHEDULE_SCHEDULER_H_

#include <cstdint>
#include <set>
#include <vector>

#include "cache/block_manager.h"
#include "schedule/sequence.h"

namespace enginery {

struct SchedulerOptions {
  int64_t max_batch_size = 1;
  int64_t max_num_tokens = 1;
  int64_t max_logit_rows = 1;    // at least the smaller of max_batch_size and max_num_tokens
  int64_t max_chunk_tokens = 1;  // 1 .. max_num_tokens; longest piece of a prompt in one step
  int32_t policy = ENGINERY_POLICY_GUARANTEED_NO_EVICT;
  // Off: a prompt is computed in one step. What is computed again after a preemption may be longer
  // than any step and still comes in pieces.
  bool enable_chunked_context = true;
};

struct ScheduledSequence {
  Sequence* sequence;
  int32_t num_tokens;      // its tokens [num_computed_tokens, num_computed_tokens + num_tokens)
  int32_t num_logit_rows;  // of the last so many of them logits are wanted
  bool draws_token;        // the last row gives the next token
};

// Sequences of a step, decodes first.
struct ScheduledStep {
  std::vector<ScheduledSequence> sequences;
  std::vector<Sequence*> preempted;
  std::vector<Sequence*> admitted;
  int64_t num_tokens = 0;
  int64_t num_decode_tokens = 0;
  int64_t num_logit_rows = 0;
};

class Scheduler {
 public:
  // `blocks` must outlive the scheduler, which alone changes it.
  Scheduler(const SchedulerOptions& options, BlockManager* blocks);

  // Blocks that must exist for a request to be taken: under MAX_UTILIZATION those of one sequence
  // at its longest end, else of all its sequences together. KV of the last token drawn is never
  // computed.
  int64_t NumBlocksRequired(int64_t num_prompt_tokens, int64_t max_tokens,
                            int64_t num_sequences) const;

  // Queues it. Its request must fit: NumBlocksRequired, and num_slots in max_batch_size and
  // max_num_tokens; with chunked context off also the prompt in max_num_tokens, and its context
  // logits in the rows that the others leave.
  void Add(Sequence* sequence);
  // The next step; valid until the next call. Empty exactly when nothing waits or runs. Blocks are
  // allocated and copies pending.
  const ScheduledStep& Schedule();
  // The step was executed: its tokens are computed.
  void Complete(const ScheduledStep& step);
  // `child`, a new sequence of the same request, takes over one slot of `parent`, its tokens and
  // (shared) its KV.
  void Fork(Sequence* parent, Sequence* child);
  // Leaves queue or batch, whichever it is in, and frees its blocks.
  void Finish(Sequence* sequence);

  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  const std::vector<Sequence*>& running() const { return running_; }
  const std::set<Sequence*, ComesBefore>& waiting() const { return waiting_; }
  const ScheduledStep& step() const { return step_; }  // the last one scheduled

 private:
  void ScheduleDecodes();
  void ScheduleChunks();
  void Admit();
  bool CanAdmit(const Sequence& sequence);
  // Tokens of `sequence` that this step can still take; 0: none.
  int64_t ChunkTokens(const Sequence& sequence, int64_t num_pending_tokens) const;
  void Take(Sequence* sequence, int64_t num_tokens);
  void Start(Sequence* sequence);
  void Preempt(Sequence* sequence);
  void InsertRunning(Sequence* sequence);
  void LeaveRunning(Sequence* sequence);
  int64_t NumBlocksRequired(const Sequence& sequence) const;
  // Full blocks of the prompt: shared by all sequences of its request.
  int64_t NumPromptBlocks(const Sequence& sequence) const;
  bool may_preempt() const { return options_.policy == ENGINERY_POLICY_MAX_UTILIZATION; }

  const SchedulerOptions options_;
  const int64_t max_slots_;  // sequences in flight at most: a decode of each must fit a step
  BlockManager* const blocks_;
  std::set<Sequence*, ComesBefore> waiting_;
  std::vector<Sequence*> running_;   // in order
  int64_t num_slots_ = 0;            // of running_
  int64_t num_reserved_blocks_ = 0;  // of running_
  ScheduledStep step_;
  Prefix prefix_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_SCHEDULE_SCHEDULER_H_
