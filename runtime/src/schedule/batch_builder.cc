// SPDX-License-Identifier: Apache-2.0
#include "schedule/batch_builder.h"

#include <algorithm>
#include <span>

namespace enginery {
namespace {

static_assert(sizeof(enginery_batch) % 8 == 0 && sizeof(enginery_sample_record) % 8 == 0);

// Places arrays one after another, each at an 8-byte boundary.
class Layout {
 public:
  template <typename T>
  uint64_t Place(uint64_t count) {
    const uint64_t offset = bytes_;
    bytes_ += (count * sizeof(T) + 7) / 8 * 8;
    return offset;
  }
  uint64_t bytes() const { return bytes_; }

 private:
  uint64_t bytes_ = sizeof(enginery_batch);
};

void FillCounts(const ScheduledStep& step, const BlockManager& blocks, enginery_batch* batch) {
  int64_t width = 1;
  uint32_t num_samples = 0;
  for (const ScheduledSequence& s : step.sequences) {
    width = std::max(width, blocks.NumBlocksFor(s.sequence->num_computed_tokens + s.num_tokens));
    if (s.draws_token) num_samples += static_cast<uint32_t>(s.sequence->num_slots);
  }
  batch->num_sequences = static_cast<uint32_t>(step.sequences.size());
  batch->num_tokens = static_cast<uint32_t>(step.num_tokens);
  batch->num_logit_rows = static_cast<uint32_t>(step.num_logit_rows);
  batch->block_table_width = static_cast<uint32_t>(width);
  batch->num_block_copies = static_cast<uint32_t>(blocks.pending_copies().size());
  batch->num_samples = num_samples;
}

void PlaceArrays(enginery_batch* batch) {
  Layout layout;
  const uint64_t num_sequences = batch->num_sequences;
  batch->token_ids = layout.Place<int32_t>(batch->num_tokens);
  batch->positions = layout.Place<int32_t>(batch->num_tokens);
  batch->cu_seqlens_q = layout.Place<int32_t>(num_sequences + 1);
  batch->context_lens = layout.Place<int32_t>(num_sequences);
  batch->block_tables = layout.Place<int32_t>(num_sequences * batch->block_table_width);
  batch->slot_mapping = layout.Place<int64_t>(batch->num_tokens);
  batch->block_copies = layout.Place<int32_t>(2 * uint64_t{batch->num_block_copies});
  batch->logit_rows = layout.Place<int32_t>(batch->num_logit_rows);
  batch->samples = layout.Place<enginery_sample_record>(batch->num_samples);
  batch->total_bytes = layout.bytes();
}

}  // namespace

const enginery_batch* BatchBuilder::Build(uint64_t step_id, const ScheduledStep& step,
                                          const BlockManager& blocks) {
  enginery_batch header = {};
  header.magic = ENGINERY_BATCH_MAGIC;
  header.version = ENGINERY_BATCH_VERSION;
  header.step_id = step_id;
  FillCounts(step, blocks, &header);
  PlaceArrays(&header);
  if (buffer_.size() * 8 < header.total_bytes) {
    buffer_.resize(std::max(header.total_bytes / 8, buffer_.size() * 3 / 2));
  }
  auto* base = reinterpret_cast<std::byte*>(buffer_.data());
  *reinterpret_cast<enginery_batch*>(base) = header;
  const auto i32 = [base](uint64_t offset) { return reinterpret_cast<int32_t*>(base + offset); };
  int32_t* token_ids = i32(header.token_ids);
  int32_t* positions = i32(header.positions);
  int32_t* cu_seqlens_q = i32(header.cu_seqlens_q);
  int32_t* context_lens = i32(header.context_lens);
  int32_t* block_tables = i32(header.block_tables);
  auto* slot_mapping = reinterpret_cast<int64_t*>(base + header.slot_mapping);
  int32_t* logit_rows = i32(header.logit_rows);
  auto* samples = reinterpret_cast<enginery_sample_record*>(base + header.samples);

  const int64_t tokens_per_block = blocks.tokens_per_block();
  int32_t num_tokens = 0;
  int32_t num_rows = 0;
  *cu_seqlens_q++ = 0;
  for (const ScheduledSequence& scheduled : step.sequences) {
    const Sequence& sequence = *scheduled.sequence;
    const std::span<const int32_t> table = blocks.block_table(sequence.blocks);
    const int64_t context_len = sequence.num_computed_tokens + scheduled.num_tokens;
    for (int64_t position = sequence.num_computed_tokens; position < context_len; ++position) {
      *token_ids++ = sequence.token_ids[static_cast<size_t>(position)];
      *positions++ = static_cast<int32_t>(position);
      *slot_mapping++ = table[static_cast<size_t>(position / tokens_per_block)] * tokens_per_block +
                        position % tokens_per_block;
    }
    num_tokens += scheduled.num_tokens;
    *cu_seqlens_q++ = num_tokens;
    *context_lens++ = static_cast<int32_t>(context_len);
    const auto num_blocks = static_cast<size_t>(blocks.NumBlocksFor(context_len));
    std::copy_n(table.begin(), num_blocks, block_tables);
    std::fill(block_tables + num_blocks, block_tables + header.block_table_width, -1);
    block_tables += header.block_table_width;
    for (int32_t row = scheduled.num_logit_rows; row > 0; --row) {
      logit_rows[num_rows++] = num_tokens - row;
    }
    for (int32_t i = 0; scheduled.draws_token && i < sequence.num_slots; ++i) {
      *samples = sequence.sampling;
      samples->logit_row = num_rows - 1;
      samples->sequence_index = static_cast<uint32_t>(sequence.index + i);
      samples->position = static_cast<uint32_t>(sequence.num_tokens());
      ++samples;
    }
  }
  int32_t* copies = i32(header.block_copies);
  for (const BlockCopy& copy : blocks.pending_copies()) {
    *copies++ = copy.from;
    *copies++ = copy.to;
  }
  return reinterpret_cast<const enginery_batch*>(base);
}

}  // namespace enginery
