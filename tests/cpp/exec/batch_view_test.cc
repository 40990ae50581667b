// SPDX-License-Identifier: Apache-2.0
#include "exec/batch_view.h"

#include <functional>

#include "base/error.h"
#include "check.h"
#include "support/batch_builder.h"

namespace enginery::test {
namespace {

constexpr BatchLimits kLimits = {.max_batch_size = 3,
                                 .max_num_tokens = 32,
                                 .max_logit_rows = 32,
                                 .max_seq_len = 100,
                                 .tokens_per_block = 16,
                                 .num_blocks = 10,
                                 .vocab_size = 50};

// A decode at position 40 and a prefill of 20 tokens; a token is drawn for the decode.
BatchBuilder Good() {
  const std::vector<int32_t> tokens(41, 7);
  BatchBuilder builder({Chunk{tokens, 40, 41, {3, 1, 9}}, Chunk{tokens, 0, 20, {4, 5}}}, 16);
  builder.block_copies = {2, 3};
  builder.samples.resize(1);
  builder.samples[0].position = 41;
  return builder;
}

void Refused(const AlignedBytes& bytes, const std::string& part) {
  CHECK_THROWS_WITH(BatchView::Check(AsBatch(bytes), kLimits), Error, part);
  try {
    BatchView::Check(AsBatch(bytes), kLimits);
  } catch (const Error& error) {
    CHECK_EQ(error.status(), ENGINERY_INVALID_ARGUMENT);
  }
}

void RefusedWith(const std::function<void(BatchBuilder&)>& damage, const std::string& part) {
  BatchBuilder builder = Good();
  damage(builder);
  Refused(builder.Build(), part);
}

void RefusedHeader(const std::function<void(enginery_batch&)>& damage, const std::string& part) {
  AlignedBytes bytes = Good().Build();
  auto header = Get<enginery_batch>(bytes, 0);
  damage(header);
  Put(bytes, 0, header);
  Refused(bytes, part);
}

TEST(a_good_batch_is_seen_as_it_is) {
  const AlignedBytes bytes = Good().Build();
  const BatchView view = BatchView::Check(AsBatch(bytes), kLimits);
  CHECK_EQ(view.num_sequences, 2);
  CHECK_EQ(view.num_tokens, 21);
  CHECK_EQ(view.num_logit_rows, 21);
  CHECK_EQ(view.block_table_width, 3);
  CHECK_EQ(view.num_block_copies, 1);
  CHECK_EQ(view.positions[0], 40);
  CHECK_EQ(view.slot_mapping[0], 9 * 16 + 8);
  CHECK_EQ(view.context_lens[1], 20);
  CHECK_EQ(view.block_copies[1], 3);
  CHECK_EQ(view.num_samples, 1);
  CHECK_EQ(view.samples[0].position, 41u);
}

TEST(headers_that_lie_are_refused) {
  CHECK_THROWS_WITH(BatchView::Check(nullptr, kLimits), Error, "NULL");
  RefusedHeader([](auto& h) { h.magic = 1; }, "magic is 1");
  RefusedHeader([](auto& h) { h.version = 2; }, "version is 2; accepted: 1");
  RefusedHeader([](auto& h) { h.total_bytes = 8; }, "total_bytes is 8");
  RefusedHeader([](auto& h) { h.num_sequences = 0; }, "num_sequences is 0; accepted: 1..3");
  RefusedHeader([](auto& h) { h.num_sequences = 4; }, "num_sequences is 4; accepted: 1..3");
  RefusedHeader([](auto& h) { h.num_tokens = 0; }, "num_tokens is 0");
  RefusedHeader([](auto& h) { h.num_tokens = 33; }, "num_tokens is 33; accepted: 1..32");
  RefusedHeader([](auto& h) { h.num_logit_rows = 33; }, "num_logit_rows is 33");
  RefusedHeader([](auto& h) { h.num_samples = 4; }, "num_samples is 4; accepted: 0..3");
}

TEST(arrays_outside_of_the_batch_are_refused) {
  using Field = uint64_t enginery_batch::*;
  const std::pair<Field, const char*> fields[] = {
      {&enginery_batch::token_ids, "token_ids"},
      {&enginery_batch::positions, "positions"},
      {&enginery_batch::cu_seqlens_q, "cu_seqlens_q"},
      {&enginery_batch::context_lens, "context_lens"},
      {&enginery_batch::block_tables, "block_tables"},
      {&enginery_batch::slot_mapping, "slot_mapping"},
      {&enginery_batch::block_copies, "block_copies"},
      {&enginery_batch::logit_rows, "logit_rows"},
      {&enginery_batch::samples, "samples"},
  };
  const uint64_t end = Good().Build().size();
  for (const auto& [field, name] : fields) {
    for (const uint64_t offset : {uint64_t{0}, uint64_t{sizeof(enginery_batch)} - 8, end, end - 4,
                                  end + 8, ~uint64_t{7}, uint64_t{1} << 63}) {
      RefusedHeader([&](auto& h) { h.*field = offset; }, std::string(name) + " at byte");
    }
  }
  RefusedHeader([](auto& h) { h.block_table_width = 0xFFFFFFFFu; }, "block_tables at byte");
  RefusedHeader([](auto& h) { h.num_block_copies = 0xFFFFFFFFu; }, "block_copies at byte");
  RefusedHeader([](auto& h) { h.num_samples = 3; }, "samples at byte");
}

TEST(contents_out_of_range_are_refused) {
  RefusedWith([](auto& b) { b.token_ids[3] = 50; }, "token_ids[3] is 50; accepted: 0..49");
  RefusedWith([](auto& b) { b.token_ids[3] = -1; }, "token_ids[3] is -1");
  RefusedWith([](auto& b) { b.positions[0] = 39; }, "positions[0] is 39; accepted: 40..40");
  RefusedWith([](auto& b) { b.positions[20] = -5; }, "positions[20]");
  RefusedWith([](auto& b) { b.cu_seqlens_q[0] = 1; }, "cu_seqlens_q[0] is 1");
  RefusedWith([](auto& b) { b.cu_seqlens_q[1] = 0; }, "cu_seqlens_q[1] is 0");
  RefusedWith([](auto& b) { b.cu_seqlens_q[1] = -7; }, "cu_seqlens_q[1] is -7");
  RefusedWith([](auto& b) { b.cu_seqlens_q[1] = 1 << 30; }, "cu_seqlens_q[1]");
  RefusedWith([](auto& b) { b.cu_seqlens_q[2] = 22; }, "cu_seqlens_q[2] is 22");
  RefusedWith([](auto& b) { b.context_lens[0] = 0; }, "context_lens[0] is 0; accepted: 1..100");
  RefusedWith([](auto& b) { b.context_lens[0] = 101; }, "context_lens[0] is 101");
  RefusedWith([](auto& b) { b.context_lens[1] = 60; }, "block_table_width is 3");
  RefusedWith([](auto& b) { b.context_lens[1] = 33; }, "block_tables[5] is -1");
  RefusedWith([](auto& b) { b.block_tables[1] = 10; }, "block_tables[1] is 10; accepted: 0..9");
  RefusedWith([](auto& b) { b.block_tables[1] = -1; }, "block_tables[1] is -1");
  RefusedWith([](auto& b) { b.slot_mapping[0] += 1; }, "slot_mapping[0]");
  RefusedWith([](auto& b) { b.slot_mapping[5] = -1; }, "slot_mapping[5]");
  RefusedWith([](auto& b) { b.slot_mapping[5] = int64_t{1} << 62; }, "slot_mapping[5]");
  RefusedWith([](auto& b) { b.block_copies[0] = 10; }, "block_copies[0] is 10");
  RefusedWith([](auto& b) { b.block_copies[1] = -1; }, "block_copies[1] is -1");
  RefusedWith([](auto& b) { b.logit_rows[20] = 21; }, "logit_rows[20] is 21");
  RefusedWith([](auto& b) { b.logit_rows[1] = 0; }, "logit_rows[1] is 0; accepted: 1..20");
  RefusedWith([](auto& b) { b.logit_rows[0] = -1; }, "logit_rows[0] is -1");
  RefusedWith([](auto& b) { b.samples[0].logit_row = 21; },
              "samples.logit_row[0] is 21; accepted: 0..20");
  RefusedWith([](auto& b) { b.samples[0].logit_row = -1; }, "samples.logit_row[0] is -1");
}

}  // namespace
}  // namespace enginery::test
