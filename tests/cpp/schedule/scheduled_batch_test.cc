// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <vector>

#include "check.h"
#include "schedule/batch_builder.h"

namespace enginery::test {
namespace {

template <class T>
std::vector<T> Read(const enginery_batch* batch, uint64_t offset, uint64_t count) {
  REQUIRE(offset % 8 == 0 && offset + count * sizeof(T) <= batch->total_bytes);
  std::vector<T> values(count);
  std::memcpy(values.data(), reinterpret_cast<const char*>(batch) + offset, count * sizeof(T));
  return values;
}

TEST(every_array_of_a_mixed_batch) {
  SchedulerOptions options;
  options.max_batch_size = 4;
  options.max_num_tokens = options.max_chunk_tokens = options.max_logit_rows = 6;
  BlockManager blocks(20, 2, true);
  Scheduler scheduler(options, &blocks);
  Sequence a;
  a.ticket = 1;
  a.token_ids = {5, 6, 7};
  a.num_prompt_tokens = 3;
  a.max_tokens = 9;
  a.num_slots = 2;
  a.sampling.seed = 99;
  scheduler.Add(&a);
  BatchBuilder builder;
  const ScheduledStep* step = &scheduler.Schedule();
  const enginery_batch* batch = builder.Build(0, *step, blocks);
  CHECK_EQ(batch->num_samples, 2);
  const auto drawn = Read<enginery_sample_record>(batch, batch->samples, 2);
  CHECK_EQ(drawn[0].logit_row, 0);
  CHECK_EQ(drawn[1].logit_row, 0);
  CHECK_EQ(drawn[0].sequence_index, 0);
  CHECK_EQ(drawn[1].sequence_index, 1);
  CHECK_EQ(drawn[1].position, 3);
  CHECK_EQ(drawn[1].seed, 99);
  scheduler.Complete(*step);
  Sequence fork;
  fork.ticket = 1;
  fork.index = 1;
  fork.num_prompt_tokens = 3;
  fork.max_tokens = 9;
  scheduler.Fork(&a, &fork);
  a.token_ids.push_back(8);
  fork.token_ids.push_back(9);

  Sequence b;
  b.ticket = 2;
  b.token_ids = {1, 2, 3, 4, 5};
  b.num_prompt_tokens = 5;
  scheduler.Add(&b);
  step = &scheduler.Schedule();
  batch = builder.Build(7, *step, blocks);
  CHECK_EQ(batch->magic, ENGINERY_BATCH_MAGIC);
  CHECK_EQ(batch->version, ENGINERY_BATCH_VERSION);
  CHECK_EQ(batch->step_id, 7);
  CHECK_EQ(batch->total_bytes % 8, 0);
  REQUIRE_EQ(batch->num_sequences, 3);
  REQUIRE_EQ(batch->num_tokens, 6);
  REQUIRE_EQ(batch->num_logit_rows, 2);
  REQUIRE_EQ(batch->block_table_width, 2);
  REQUIRE_EQ(batch->num_block_copies, 1);
  REQUIRE_EQ(batch->num_samples, 2);
  using Ids = std::vector<int32_t>;
  CHECK(Read<int32_t>(batch, batch->token_ids, 6) == (Ids{8, 9, 1, 2, 3, 4}));
  CHECK(Read<int32_t>(batch, batch->positions, 6) == (Ids{3, 3, 0, 1, 2, 3}));
  CHECK(Read<int32_t>(batch, batch->cu_seqlens_q, 4) == (Ids{0, 1, 2, 6}));
  CHECK(Read<int32_t>(batch, batch->context_lens, 3) == (Ids{4, 4, 4}));
  // a wrote on in a copy of block 1, the fork in block 1 itself; b holds a third block already.
  CHECK(Read<int32_t>(batch, batch->block_tables, 6) == (Ids{0, 2, 0, 1, 3, 4}));
  CHECK(Read<int32_t>(batch, batch->block_copies, 2) == (Ids{1, 2}));
  CHECK(Read<int64_t>(batch, batch->slot_mapping, 6) == (std::vector<int64_t>{5, 3, 6, 7, 8, 9}));
  CHECK(Read<int32_t>(batch, batch->logit_rows, 2) == (Ids{0, 1}));
  const auto samples = Read<enginery_sample_record>(batch, batch->samples, 2);
  CHECK_EQ(samples[1].logit_row, 1);
  CHECK_EQ(samples[1].sequence_index, 1);
  CHECK_EQ(samples[1].position, 4);
  blocks.ClearCopies();
  scheduler.Complete(*step);

  // Narrower rows are filled up with -1.
  a.token_ids.push_back(8);
  scheduler.Finish(&fork);
  Sequence c;
  c.ticket = 3;
  c.token_ids = {42};
  c.num_prompt_tokens = 1;
  scheduler.Add(&c);
  step = &scheduler.Schedule();
  batch = builder.Build(8, *step, blocks);
  REQUIRE_EQ(batch->block_table_width, 3);
  CHECK(Read<int32_t>(batch, batch->block_tables, 9) == (Ids{0, 2, 6, 3, 4, 5, 7, -1, -1}));
}

TEST(a_warm_buffer_is_not_allocated_again) {
  SchedulerOptions options;
  options.max_batch_size = 2;
  options.max_num_tokens = options.max_chunk_tokens = options.max_logit_rows = 8;
  BlockManager blocks(10, 4, true);
  Scheduler scheduler(options, &blocks);
  Sequence s;
  s.token_ids = {1, 2, 3, 4, 5, 6, 7, 8};
  s.num_prompt_tokens = 8;
  s.max_tokens = 9;
  scheduler.Add(&s);
  BatchBuilder builder;
  const enginery_batch* first = builder.Build(0, scheduler.Schedule(), blocks);
  CHECK_EQ(builder.Build(1, scheduler.Schedule(), blocks), first);
}

}  // namespace
}  // namespace enginery::test
