// SPDX-License-Identifier: Apache-2.0
//
// Steps written out by hand: who takes part with how many tokens.
#include "schedule/scheduler.h"

#include <memory>
#include <string>
#include <vector>

#include "base/str_cat.h"
#include "check.h"

namespace enginery::test {
namespace {

// A scheduler and its sequences, named by ticket.
class Bench {
 public:
  Bench(const SchedulerOptions& options, int64_t num_blocks, int64_t tokens_per_block)
      : blocks_(num_blocks, tokens_per_block, true), scheduler_(options, &blocks_) {}

  // `num_slots` > 1: the request wants so many sequences.
  Sequence* Add(int64_t num_prompt_tokens, int64_t max_tokens, int32_t priority = 0,
                int32_t num_slots = 1) {
    Sequence* s = New();
    s->ticket = ++num_added_;
    s->num_prompt_tokens = num_prompt_tokens;
    s->max_tokens = max_tokens;
    s->priority = priority;
    s->num_slots = num_slots;
    // Distinct prompts: nothing is reused unless a test sets token_ids.
    for (int64_t i = 0; i < num_prompt_tokens; ++i) {
      s->token_ids.push_back(static_cast<int32_t>(1000 * s->ticket + static_cast<uint64_t>(i)));
    }
    scheduler_.Add(s);
    return s;
  }

  // One step as "ticket:tokens" in order, a "*" where a token is drawn, "-ticket" where one was
  // preempted. Every sequence that draws gets a token, and ends at its max_tokens.
  std::string Step() {
    const ScheduledStep step = scheduler_.Schedule();
    std::string text;
    for (const Sequence* s : step.preempted) text += StrCat("-", s->ticket, " ");
    for (const ScheduledSequence& s : step.sequences) {
      text += StrCat(s.sequence->ticket, ":", s.num_tokens, s.draws_token ? "* " : " ");
    }
    blocks_.ClearCopies();
    scheduler_.Complete(step);
    for (const ScheduledSequence& s : step.sequences) {
      if (s.draws_token) Draw(s.sequence);
    }
    if (!text.empty()) text.pop_back();
    return text;
  }

  BlockManager& blocks() { return blocks_; }
  Scheduler& scheduler() { return scheduler_; }

 private:
  Sequence* New() {
    sequences_.push_back(std::make_unique<Sequence>());
    return sequences_.back().get();
  }
  void Draw(Sequence* parent) {
    std::vector<Sequence*> drawn = {parent};
    const int32_t num_slots = parent->num_slots;
    for (int32_t i = 1; i < num_slots; ++i) {
      Sequence* child = New();
      child->ticket = parent->ticket;
      child->index = i;
      child->num_prompt_tokens = parent->num_prompt_tokens;
      child->max_tokens = parent->max_tokens;
      scheduler_.Fork(parent, child);
      drawn.push_back(child);
    }
    for (Sequence* s : drawn) {
      s->token_ids.push_back(static_cast<int32_t>(7 + s->index));
      if (s->num_output_tokens() == s->max_tokens) scheduler_.Finish(s);
    }
  }

  BlockManager blocks_;
  Scheduler scheduler_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  uint64_t num_added_ = 0;
};

SchedulerOptions Options(int64_t max_batch_size, int64_t max_num_tokens) {
  SchedulerOptions options;
  options.max_batch_size = max_batch_size;
  options.max_num_tokens = max_num_tokens;
  options.max_logit_rows = max_num_tokens;
  options.max_chunk_tokens = max_num_tokens;
  return options;
}

TEST(decodes_come_first_and_prompts_share_the_rest) {
  Bench bench(Options(4, 8), 100, 2);
  bench.Add(3, 9);
  CHECK_EQ(bench.Step(), "1:3*");
  bench.Add(10, 9);
  bench.Add(4, 9);
  CHECK_EQ(bench.Step(), "1:1* 2:7");
  CHECK_EQ(bench.Step(), "1:1* 2:3* 3:4*");
  CHECK_EQ(bench.Step(), "1:1* 2:1* 3:1*");
}

TEST(a_chunk_is_bounded) {
  SchedulerOptions options = Options(4, 8);
  options.max_chunk_tokens = 3;
  Bench bench(options, 100, 2);
  bench.Add(7, 9);
  bench.Add(5, 9);
  CHECK_EQ(bench.Step(), "1:3 2:3");
  CHECK_EQ(bench.Step(), "1:3 2:2*");
  // A single token left is no different from a decode.
  CHECK_EQ(bench.Step(), "1:1* 2:1*");
}

TEST(whole_prompts_wait_for_room) {
  SchedulerOptions options = Options(4, 8);
  options.enable_chunked_context = false;
  Bench bench(options, 100, 2);
  bench.Add(5, 9);
  bench.Add(6, 9);
  bench.Add(2, 9);  // would fit, but it is not its turn
  CHECK_EQ(bench.Step(), "1:5*");
  CHECK_EQ(bench.Step(), "1:1* 2:6*");
  CHECK_EQ(bench.Step(), "1:1* 2:1* 3:2*");
}

TEST(priority_before_arrival) {
  Bench bench(Options(1, 8), 100, 2);
  bench.Add(2, 1);
  bench.Add(3, 1, 0);
  bench.Add(4, 1, 5);
  bench.Add(5, 1, -1);
  bench.Add(6, 1, 5);
  CHECK_EQ(bench.Step(), "3:4*");
  CHECK_EQ(bench.Step(), "5:6*");
  CHECK_EQ(bench.Step(), "1:2*");
  CHECK_EQ(bench.Step(), "2:3*");
  CHECK_EQ(bench.Step(), "4:5*");
  CHECK_EQ(bench.Step(), "");
}

TEST(batch_size_and_budget_bound_the_sequences_in_flight) {
  Bench by_batch(Options(2, 8), 100, 2);
  for (int i = 0; i < 3; ++i) by_batch.Add(1, 2);
  CHECK_EQ(by_batch.Step(), "1:1* 2:1*");
  CHECK_EQ(by_batch.Step(), "1:1* 2:1*");
  CHECK_EQ(by_batch.Step(), "3:1*");
  // Three decodes would not fit a step of two tokens.
  Bench by_tokens(Options(8, 2), 100, 2);
  for (int i = 0; i < 3; ++i) by_tokens.Add(1, 2);
  CHECK_EQ(by_tokens.Step(), "1:1* 2:1*");
  CHECK_EQ(by_tokens.Step(), "1:1* 2:1*");
  CHECK_EQ(by_tokens.Step(), "3:1*");
}

TEST(no_evict_admits_by_the_longest_end) {
  // Blocks of 2: prompt 2 + 5 new tokens leave KV of 6 tokens, 3 blocks. Two fit in 7, not three.
  Bench bench(Options(4, 8), 7, 2);
  for (int i = 0; i < 3; ++i) bench.Add(2, 5);
  CHECK_EQ(bench.Step(), "1:2* 2:2*");
  for (int i = 0; i < 3; ++i) CHECK_EQ(bench.Step(), "1:1* 2:1*");
  CHECK_EQ(bench.Step(), "1:1* 2:1*");
  CHECK_EQ(bench.Step(), "3:2*");
  CHECK_EQ(bench.scheduler().NumBlocksRequired(2, 5, 1), 3);
  CHECK_EQ(bench.scheduler().NumBlocksRequired(2, 5, 3), 3 + 2 * 2);  // the prompt's block is one
}

TEST(max_utilization_preempts_the_last_and_computes_it_again) {
  SchedulerOptions options = Options(4, 8);
  options.policy = ENGINERY_POLICY_MAX_UTILIZATION;
  Bench bench(options, 4, 2);
  bench.Add(2, 6);
  Sequence* second = bench.Add(1, 6);
  CHECK_EQ(bench.Step(), "1:2* 2:1*");  // blocks: 1 + 1
  CHECK_EQ(bench.Step(), "1:1* 2:1*");  // 2 + 1
  CHECK_EQ(bench.Step(), "1:1* 2:1*");  // 2 + 2: all
  CHECK_EQ(bench.Step(), "-2 1:1*");    // the first needs a third
  CHECK_EQ(second->num_preemptions, 1);
  CHECK_EQ(second->num_computed_tokens, 0);
  // Its 4 tokens need 2 blocks and one to spare per running sequence: not beside the first.
  CHECK_EQ(bench.Step(), "1:1*");
  CHECK_EQ(bench.Step(), "1:1*");
  // Alone now. The first took all four blocks in the end: nothing of it is cached any more.
  CHECK_EQ(bench.Step(), "2:4*");
  CHECK_EQ(bench.Step(), "2:1*");
  CHECK_EQ(bench.Step(), "2:1*");
  CHECK_EQ(bench.Step(), "");
  CHECK_EQ(bench.blocks().num_free_blocks(), 4);
}

TEST(a_preempted_sequence_keeps_its_place) {
  SchedulerOptions options = Options(4, 8);
  options.policy = ENGINERY_POLICY_MAX_UTILIZATION;
  Bench bench(options, 4, 1);
  bench.Add(1, 4);
  bench.Add(1, 3);
  bench.Add(1, 1, -1);
  CHECK_EQ(bench.Step(), "1:1* 2:1*");  // the third would leave no block to spare
  CHECK_EQ(bench.Step(), "1:1* 2:1*");
  CHECK_EQ(bench.Step(), "-2 1:1*");
  CHECK_EQ(bench.Step(), "1:1*");
  CHECK_EQ(bench.Step(), "2:3*");  // 2 before 3, though it was queued later
  CHECK_EQ(bench.Step(), "3:1*");
}

TEST(static_batch_waits_until_all_are_done) {
  SchedulerOptions options = Options(2, 8);
  options.policy = ENGINERY_POLICY_STATIC_BATCH;
  Bench bench(options, 100, 2);
  bench.Add(1, 1);
  bench.Add(1, 3);
  bench.Add(1, 1);
  CHECK_EQ(bench.Step(), "1:1* 2:1*");
  CHECK_EQ(bench.Step(), "2:1*");
  CHECK_EQ(bench.Step(), "2:1*");
  CHECK_EQ(bench.Step(), "3:1*");
}

TEST(sequences_of_a_request_take_their_slots_from_the_start) {
  Bench bench(Options(3, 8), 100, 2);
  bench.Add(3, 3, 0, 2);
  bench.Add(1, 1, 0, 2);
  bench.Add(1, 1);
  CHECK_EQ(bench.Step(), "1:3*");  // two slots: the second request's two do not fit
  CHECK_EQ(bench.Step(), "1:1* 1:1*");
  CHECK_EQ(bench.Step(), "1:1* 1:1*");
  CHECK_EQ(bench.Step(), "2:1* 3:1*");
}

TEST(the_reservation_of_a_common_prompt_outlives_who_made_it) {
  // Blocks of 1. Prompt 4, 4 new: KV of 7 tokens. Two sequences: 4 + 3 + 3 = 10 blocks.
  Bench bench(Options(4, 8), 14, 1);
  Sequence* parent = bench.Add(4, 4, 0, 2);
  CHECK_EQ(bench.Step(), "1:4*");
  bench.scheduler().Finish(parent);  // cancelled; its sibling still has the prompt: 7 blocks
  bench.Add(4, 5);                   // 8 blocks
  CHECK_EQ(bench.Step(), "1:1*");
  CHECK_EQ(bench.Step(), "1:1*");
  CHECK_EQ(bench.Step(), "1:1*");
  CHECK_EQ(bench.Step(), "2:4*");
}

TEST(equal_prompts_are_reused) {
  Bench bench(Options(4, 16), 100, 2);
  Sequence* a = bench.Add(6, 2);
  CHECK_EQ(bench.Step(), "1:6*");
  Sequence* b = bench.Add(6, 2);
  b->token_ids = std::vector<int32_t>(a->token_ids.begin(), a->token_ids.begin() + 6);
  // Two blocks of three: the last token of the prompt is computed for its logits.
  CHECK_EQ(bench.Step(), "1:1* 2:2*");
  CHECK_EQ(b->num_reused_tokens, 4);
}

TEST(context_logits_take_the_rows_that_others_leave) {
  SchedulerOptions options = Options(3, 16);
  options.max_logit_rows = 5;  // 2 beside one per sequence
  Bench bench(options, 100, 2);
  bench.Add(1, 9);
  Sequence* all = bench.Add(7, 9);
  all->wants_context_logits = true;
  CHECK_EQ(bench.Step(), "1:1* 2:3");
  CHECK_EQ(all->num_context_logits, 3);
  CHECK_EQ(bench.Step(), "1:1* 2:3");
  CHECK_EQ(bench.Step(), "1:1* 2:1*");
  CHECK_EQ(all->num_context_logits, 7);
}

TEST(finish_works_in_queue_and_batch) {
  Bench bench(Options(1, 8), 10, 2);
  Sequence* running = bench.Add(3, 9);
  Sequence* waiting = bench.Add(3, 9);
  CHECK_EQ(bench.Step(), "1:3*");
  bench.scheduler().Finish(waiting);
  CHECK_EQ(bench.scheduler().num_waiting(), 0);
  bench.scheduler().Finish(running);
  CHECK_EQ(bench.scheduler().num_running(), 0);
  CHECK_EQ(bench.blocks().num_free_blocks(), 10);
  bench.scheduler().Finish(running);  // a second time changes nothing
  CHECK_EQ(bench.Step(), "");
}

}  // namespace
}  // namespace enginery::test
