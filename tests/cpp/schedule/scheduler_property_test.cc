// SPDX-License-Identifier: Apache-2.0
//
// Long random loads: what must hold in every step, whatever the policy, and that all ends.
#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "base/str_cat.h"
#include "check.h"
#include "schedule/batch_builder.h"
#include "schedule/scheduler.h"

namespace enginery::test {
namespace {

class Load {
 public:
  explicit Load(uint64_t seed)
      : random_(seed),
        options_(MakeOptions()),
        tokens_per_block_(Pick(1, 4)),
        num_blocks_(MakeNumBlocks()),
        blocks_(num_blocks_, tokens_per_block_, Pick(0, 2) != 0),
        scheduler_(options_, &blocks_) {}

  void Run() {
    int num_steps = 0;
    int64_t num_left = 40;
    while (num_left > 0 || !live_.empty()) {
      for (int64_t i = Pick(0, 3); i > 0 && num_left > 0; --i, --num_left) Add();
      if (Pick(0, 9) == 0 && !live_.empty()) Finish(AnyLive());
      RunStep();
      REQUIRE(++num_steps < 5000);  // all requests end
    }
    REQUIRE_EQ(scheduler_.num_running(), 0);
    REQUIRE_EQ(scheduler_.num_waiting(), 0);
    REQUIRE_EQ(blocks_.num_free_blocks(), num_blocks_);
  }

  int64_t num_preemptions = 0;

 private:
  int64_t Pick(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }

  SchedulerOptions MakeOptions() {
    SchedulerOptions options;
    options.max_batch_size = Pick(2, 6);
    options.max_num_tokens = Pick(2, 20);
    options.enable_chunked_context = Pick(0, 3) != 0;
    if (!options.enable_chunked_context) options.max_num_tokens = Pick(12, 20);
    options.max_chunk_tokens =
        options.enable_chunked_context ? Pick(1, options.max_num_tokens) : options.max_num_tokens;
    options.max_logit_rows =
        options.enable_chunked_context
            ? Pick(std::min(options.max_batch_size, options.max_num_tokens), options.max_num_tokens)
            : options.max_num_tokens;
    options.policy = static_cast<int32_t>(Pick(0, 2));
    return options;
  }
  // Prompts and outputs have at most 12 tokens each, requests at most 2 sequences.
  int64_t MakeNumBlocks() {
    const int64_t one = (23 + tokens_per_block_ - 1) / tokens_per_block_;
    return options_.policy == ENGINERY_POLICY_MAX_UTILIZATION ? Pick(one, 2 * one)
                                                              : Pick(2 * one, 4 * one);
  }

  Sequence* New() {
    sequences_.push_back(std::make_unique<Sequence>());
    live_.insert(sequences_.back().get());
    return sequences_.back().get();
  }
  Sequence* AnyLive() {
    auto it = live_.begin();
    std::advance(it, Pick(0, static_cast<int64_t>(live_.size()) - 1));
    return *it;
  }

  void Add() {
    Sequence* s = New();
    s->ticket = ++last_ticket_;
    s->num_prompt_tokens = Pick(1, 12);
    s->max_tokens = Pick(1, 12);
    s->priority = static_cast<int32_t>(Pick(0, 1));
    s->num_slots = static_cast<int32_t>(Pick(0, 3) == 0 ? 2 : 1);
    s->wants_context_logits = Pick(0, 4) == 0;
    for (int64_t i = 0; i < s->num_prompt_tokens; ++i) {
      s->token_ids.push_back(static_cast<int32_t>(Pick(0, 1)));
    }
    REQUIRE(scheduler_.NumBlocksRequired(s->num_prompt_tokens, s->max_tokens, s->num_slots) <=
            num_blocks_);
    scheduler_.Add(s);
  }

  void Finish(Sequence* s) {
    scheduler_.Finish(s);
    live_.erase(s);
  }

  void RunStep() {
    const ScheduledStep step = scheduler_.Schedule();
    num_preemptions += static_cast<int64_t>(step.preempted.size());
    REQUIRE_EQ(step.sequences.empty(), live_.empty());
    CheckStep(step);
    CheckConservation();
    const enginery_batch* batch = builder_.Build(0, step, blocks_);
    REQUIRE_EQ(batch->num_tokens, step.num_tokens);
    blocks_.ClearCopies();
    scheduler_.Complete(step);
    for (const ScheduledSequence& s : step.sequences) {
      if (s.draws_token) Draw(s.sequence);
    }
    CheckConservation();
  }

  void CheckStep(const ScheduledStep& step) {
    const bool may_preempt = options_.policy == ENGINERY_POLICY_MAX_UTILIZATION;
    REQUIRE(may_preempt || step.preempted.empty());
    REQUIRE(step.preempted.empty() || step.admitted.empty());
    int64_t num_tokens = 0;
    int64_t num_rows = 0;
    std::set<Sequence*> seen;
    for (const ScheduledSequence& s : step.sequences) {
      REQUIRE(seen.insert(s.sequence).second);
      REQUIRE(s.sequence->state == Sequence::State::kRunning);
      REQUIRE(s.num_tokens >= 1 && s.num_tokens <= s.sequence->num_pending_tokens());
      REQUIRE(s.num_tokens <= options_.max_chunk_tokens);
      REQUIRE_EQ(s.draws_token, s.num_tokens == s.sequence->num_pending_tokens());
      REQUIRE(s.num_logit_rows >= (s.draws_token ? 1 : 0) && s.num_logit_rows <= s.num_tokens);
      if (!options_.enable_chunked_context && s.sequence->num_output_tokens() == 0) {
        REQUIRE(s.draws_token);
      }
      const int64_t end = s.sequence->num_computed_tokens + s.num_tokens;
      const auto table = blocks_.block_table(s.sequence->blocks);
      REQUIRE(static_cast<int64_t>(table.size()) >= blocks_.NumBlocksFor(end));
      num_tokens += s.num_tokens;
      num_rows += s.num_logit_rows;
    }
    REQUIRE_EQ(num_tokens, step.num_tokens);
    REQUIRE_EQ(num_rows, step.num_logit_rows);
    REQUIRE(num_tokens <= options_.max_num_tokens);
    REQUIRE(num_rows <= options_.max_logit_rows);
    REQUIRE(static_cast<int64_t>(step.sequences.size()) <= options_.max_batch_size);
    // Decodes are never left out of a step.
    for (Sequence* s : scheduler_.running()) {
      if (s->num_pending_tokens() == 1) REQUIRE(seen.contains(s));
    }
    // The first in order is never preempted for one behind it.
    for (Sequence* preempted : step.preempted) {
      REQUIRE(std::ranges::all_of(
          scheduler_.running(), [preempted](Sequence* s) { return ComesBefore()(s, preempted); }));
    }
  }

  // Every block is in as many tables as its ref_count says, apart from pending copies, or free.
  void CheckConservation() {
    std::map<int32_t, int32_t> counts;
    for (const Sequence* s : scheduler_.running()) {
      for (const int32_t block : blocks_.block_table(s->blocks)) ++counts[block];
    }
    for (const BlockCopy& copy : blocks_.pending_copies()) ++counts[copy.from];
    for (int32_t block = 0; block < num_blocks_; ++block) {
      REQUIRE_EQ(blocks_.ref_count(block), counts[block]);
    }
    const auto num_held = std::ranges::count_if(counts, [](auto& c) { return c.second > 0; });
    REQUIRE_EQ(blocks_.num_free_blocks() + num_held, num_blocks_);
  }

  void Draw(Sequence* parent) {
    std::vector<Sequence*> drawn = {parent};
    const int32_t num_slots = parent->num_slots;
    for (int32_t i = 1; i < num_slots; ++i) {
      Sequence* child = New();
      child->ticket = parent->ticket;
      child->priority = parent->priority;
      child->index = i;
      child->num_prompt_tokens = parent->num_prompt_tokens;
      child->max_tokens = parent->max_tokens;
      scheduler_.Fork(parent, child);
      drawn.push_back(child);
    }
    for (Sequence* s : drawn) {
      s->token_ids.push_back(static_cast<int32_t>(Pick(0, 1)));
      if (s->num_output_tokens() == s->max_tokens || Pick(0, 19) == 0) Finish(s);
    }
  }

  std::mt19937_64 random_;
  const SchedulerOptions options_;
  const int64_t tokens_per_block_;
  const int64_t num_blocks_;
  BlockManager blocks_;
  Scheduler scheduler_;
  BatchBuilder builder_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::set<Sequence*> live_;
  uint64_t last_ticket_ = 0;
};

TEST(random_loads_hold_the_invariants) {
  int64_t num_preemptions = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const int failures_before = failures_in_case();
    Load load(seed);
    try {
      load.Run();
    } catch (const Abandoned&) {
    }
    num_preemptions += load.num_preemptions;
    if (failures_in_case() > failures_before) {
      fail(__FILE__, __LINE__, StrCat("with seed ", seed));
      return;
    }
  }
  CHECK_GT(num_preemptions, 300);
}

}  // namespace
}  // namespace enginery::test
