// SPDX-License-Identifier: Apache-2.0
#include "schedule/scheduler.h"

#include <algorithm>
#include <cassert>

namespace enginery {

Scheduler::Scheduler(const SchedulerOptions& options, BlockManager* blocks)
    : options_(options),
      max_slots_(std::min(options.max_batch_size, options.max_num_tokens)),
      blocks_(blocks) {
  running_.reserve(static_cast<size_t>(max_slots_));
  step_.sequences.reserve(static_cast<size_t>(max_slots_));
}

int64_t Scheduler::NumBlocksRequired(int64_t num_prompt_tokens, int64_t max_tokens,
                                     int64_t num_sequences) const {
  const int64_t one = blocks_->NumBlocksFor(num_prompt_tokens + max_tokens - 1);
  if (may_preempt()) return one;
  const int64_t shared = num_prompt_tokens / blocks_->tokens_per_block();
  return one + (num_sequences - 1) * (one - shared);
}

void Scheduler::Add(Sequence* sequence) {
  sequence->state = Sequence::State::kWaiting;
  waiting_.insert(sequence);
}

const ScheduledStep& Scheduler::Schedule() {
  step_.sequences.clear();
  step_.preempted.clear();
  step_.admitted.clear();
  step_.num_tokens = 0;
  step_.num_decode_tokens = 0;
  step_.num_logit_rows = 0;
  ScheduleDecodes();
  ScheduleChunks();
  if (step_.preempted.empty()) Admit();
  return step_;
}

void Scheduler::ScheduleDecodes() {
  // running_ loses only sequences behind the one at hand, so the index stays right.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* sequence = running_[i];
    if (sequence->num_pending_tokens() != 1) continue;
    while (!blocks_->CanAllocate(sequence->blocks, sequence->num_tokens())) {
      assert(may_preempt());
      Sequence* last = running_.back();
      Preempt(last);
      if (last == sequence) return;
    }
    blocks_->Allocate(sequence->blocks, sequence->num_tokens());
    Take(sequence, 1);
    step_.num_decode_tokens += sequence->num_output_tokens() > 0 ? 1 : 0;
  }
}

void Scheduler::ScheduleChunks() {
  for (Sequence* sequence : running_) {
    if (sequence->num_pending_tokens() == 1) continue;  // taken as a decode
    const int64_t num_tokens = ChunkTokens(*sequence, sequence->num_pending_tokens());
    // Blocks for all of its tokens were allocated when it was admitted.
    if (num_tokens > 0) Take(sequence, num_tokens);
  }
}

void Scheduler::Admit() {
  if (options_.policy == ENGINERY_POLICY_STATIC_BATCH && !running_.empty()) return;
  while (!waiting_.empty() && CanAdmit(**waiting_.begin())) {
    Sequence* sequence = *waiting_.begin();
    waiting_.erase(waiting_.begin());
    Start(sequence);
    Take(sequence, ChunkTokens(*sequence, sequence->num_pending_tokens()));
  }
}

bool Scheduler::CanAdmit(const Sequence& sequence) {
  if (num_slots_ + sequence.num_slots > max_slots_) return false;
  if (step_.num_tokens == options_.max_num_tokens) return false;
  if (!may_preempt() &&
      num_reserved_blocks_ + NumBlocksRequired(sequence) > blocks_->num_blocks()) {
    return false;
  }
  if (sequence.wants_context_logits) {
    prefix_ = Prefix{};
  } else {
    blocks_->FindPrefix(sequence.token_ids, &prefix_);
  }
  // The reservation covers whoever is not preempted; the spare blocks keep those who may be from
  // being so at once.
  const int64_t num_spare_blocks = may_preempt() ? num_slots_ : 0;
  if (!blocks_->CanAttach(prefix_, sequence.num_tokens(), num_spare_blocks)) return false;
  const int64_t num_reused =
      static_cast<int64_t>(prefix_.blocks.size()) * blocks_->tokens_per_block();
  return ChunkTokens(sequence, sequence.num_tokens() - num_reused) > 0;
}

int64_t Scheduler::ChunkTokens(const Sequence& sequence, int64_t num_pending) const {
  const int64_t num_left = options_.max_num_tokens - step_.num_tokens;
  int64_t num_tokens = std::min({num_pending, num_left, options_.max_chunk_tokens});
  // No step can want more rows than it has tokens.
  const bool are_rows_scarce = options_.max_logit_rows < options_.max_num_tokens;
  if (are_rows_scarce && sequence.wants_context_logits &&
      sequence.num_context_logits < sequence.num_prompt_tokens) {
    // A row for every sequence that may still be taken stays free. Positions computed again give no
    // rows.
    const int64_t num_computed = sequence.num_tokens() - num_pending;
    const int64_t num_without = std::max<int64_t>(0, sequence.num_context_logits - num_computed);
    const int64_t num_others = max_slots_ - static_cast<int64_t>(step_.sequences.size()) - 1;
    const int64_t num_rows = options_.max_logit_rows - step_.num_logit_rows - num_others;
    num_tokens = std::min(num_tokens, num_without + num_rows);
  }
  const bool must_be_whole = !options_.enable_chunked_context && sequence.num_output_tokens() == 0;
  return must_be_whole && num_tokens < num_pending ? 0 : num_tokens;
}

void Scheduler::Take(Sequence* sequence, int64_t num_tokens) {
  const bool draws_token = num_tokens == sequence->num_pending_tokens();
  int64_t num_rows = draws_token ? 1 : 0;
  if (sequence->wants_context_logits) {
    const int64_t first = std::max(sequence->num_context_logits, sequence->num_computed_tokens);
    const int64_t end =
        std::min(sequence->num_prompt_tokens, sequence->num_computed_tokens + num_tokens);
    num_rows = std::max(num_rows, end - first);
  }
  step_.sequences.push_back(
      {sequence, static_cast<int32_t>(num_tokens), static_cast<int32_t>(num_rows), draws_token});
  step_.num_tokens += num_tokens;
  step_.num_logit_rows += num_rows;
}

void Scheduler::Start(Sequence* sequence) {
  sequence->blocks = blocks_->Create();
  sequence->num_computed_tokens = blocks_->Attach(sequence->blocks, prefix_);
  blocks_->Allocate(sequence->blocks, sequence->num_tokens());
  if (!sequence->was_admitted) {
    sequence->was_admitted = true;
    sequence->num_reused_tokens = sequence->num_computed_tokens;
  }
  InsertRunning(sequence);
  num_slots_ += sequence->num_slots;
  sequence->num_reserved_blocks = NumBlocksRequired(*sequence);
  num_reserved_blocks_ += sequence->num_reserved_blocks;
  step_.admitted.push_back(sequence);
}

void Scheduler::Preempt(Sequence* sequence) {
  LeaveRunning(sequence);
  ++sequence->num_preemptions;
  sequence->state = Sequence::State::kWaiting;
  waiting_.insert(sequence);
  step_.preempted.push_back(sequence);
}

void Scheduler::Complete(const ScheduledStep& step) {
  for (const ScheduledSequence& scheduled : step.sequences) {
    Sequence* sequence = scheduled.sequence;
    sequence->num_computed_tokens += scheduled.num_tokens;
    if (sequence->wants_context_logits) {
      sequence->num_context_logits =
          std::max(sequence->num_context_logits,
                   std::min(sequence->num_computed_tokens, sequence->num_prompt_tokens));
    }
    blocks_->Commit(sequence->blocks, sequence->token_ids, sequence->num_computed_tokens);
  }
}

void Scheduler::Fork(Sequence* parent, Sequence* child) {
  assert(parent->num_slots > 1);
  child->token_ids = parent->token_ids;
  child->num_computed_tokens = parent->num_computed_tokens;
  child->num_context_logits = parent->num_context_logits;
  child->num_reused_tokens = parent->num_reused_tokens;
  child->was_admitted = true;
  child->blocks = blocks_->Fork(parent->blocks);
  // Slot and reservation come out of the parent's: the sums stay as they are.
  --parent->num_slots;
  child->num_reserved_blocks = NumBlocksRequired(*child) - NumPromptBlocks(*child);
  parent->num_reserved_blocks -= child->num_reserved_blocks;
  InsertRunning(child);
}

void Scheduler::Finish(Sequence* sequence) {
  if (sequence->state == Sequence::State::kWaiting) waiting_.erase(sequence);
  if (sequence->state == Sequence::State::kRunning) LeaveRunning(sequence);
  sequence->state = Sequence::State::kIdle;
}

void Scheduler::InsertRunning(Sequence* sequence) {
  sequence->state = Sequence::State::kRunning;
  const auto place = std::upper_bound(running_.begin(), running_.end(), sequence, ComesBefore());
  running_.insert(place, sequence);
}

void Scheduler::LeaveRunning(Sequence* sequence) {
  const auto place = std::lower_bound(running_.begin(), running_.end(), sequence, ComesBefore());
  assert(place != running_.end() && *place == sequence);
  const auto next = running_.erase(place);
  // One of the request's sequences holds the reservation of their common prompt; it goes to another
  // while there is one. They are neighbours, being of one ticket.
  Sequence* heir = nullptr;
  if (next != running_.end() && (*next)->ticket == sequence->ticket) heir = *next;
  if (next != running_.begin() && (*std::prev(next))->ticket == sequence->ticket) {
    heir = *std::prev(next);
  }
  if (heir != nullptr && sequence->num_reserved_blocks == NumBlocksRequired(*sequence)) {
    heir->num_reserved_blocks += NumPromptBlocks(*sequence);
    sequence->num_reserved_blocks -= NumPromptBlocks(*sequence);
  }
  num_slots_ -= sequence->num_slots;
  num_reserved_blocks_ -= sequence->num_reserved_blocks;
  blocks_->Free(sequence->blocks);
  sequence->blocks = -1;
  sequence->num_computed_tokens = 0;
}

int64_t Scheduler::NumBlocksRequired(const Sequence& sequence) const {
  return NumBlocksRequired(sequence.num_prompt_tokens, sequence.max_tokens, sequence.num_slots);
}

int64_t Scheduler::NumPromptBlocks(const Sequence& sequence) const {
  return sequence.num_prompt_tokens / blocks_->tokens_per_block();
}

}  // namespace enginery
