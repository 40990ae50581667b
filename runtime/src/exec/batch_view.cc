// SPDX-License-Identifier: Apache-2.0
#include "exec/batch_view.h"

#include <string_view>

#include "base/error.h"
#include "base/str_cat.h"

namespace enginery {
namespace {

[[noreturn]] void Refuse(const std::string& message) {
  throw Error(ENGINERY_INVALID_ARGUMENT, "batch: " + message);
}

void CheckRange(std::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    Refuse(StrCat(field, " is ", value, "; accepted: ", low, "..", high));
  }
}

void CheckElement(std::string_view field, int64_t index, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    Refuse(StrCat(field, "[", index, "] is ", value, "; accepted: ", low, "..", high));
  }
}

// The array of `count` elements at byte `offset`, all of it behind the header and inside the batch.
template <class T>
const T* Array(const enginery_batch* batch, std::string_view field, uint64_t offset,
               uint64_t count) {
  if (count == 0) return nullptr;
  // count is a product of two u32 at most, so its size in bytes may still wrap.
  if (offset < sizeof(enginery_batch) || offset % 8 != 0 || offset > batch->total_bytes ||
      count > (batch->total_bytes - offset) / sizeof(T)) {
    Refuse(StrCat(field, " at byte ", offset, " with ", count, " elements of ", uint64_t{sizeof(T)},
                  " bytes must be 8-byte aligned and lie between the header (",
                  uint64_t{sizeof(enginery_batch)}, " bytes) and the end (", batch->total_bytes,
                  ")"));
  }
  return reinterpret_cast<const T*>(reinterpret_cast<const char*>(batch) + offset);
}

void CheckHeader(const enginery_batch* batch, const BatchLimits& limits) {
  if (batch == nullptr) Refuse("is NULL");
  if (reinterpret_cast<uintptr_t>(batch) % 8 != 0) Refuse("is not aligned to 8 bytes");
  if (batch->magic != ENGINERY_BATCH_MAGIC) {
    Refuse(StrCat("magic is ", batch->magic, "; accepted: ", ENGINERY_BATCH_MAGIC));
  }
  if (batch->version != ENGINERY_BATCH_VERSION) {
    Refuse(StrCat("version is ", batch->version, "; accepted: ", ENGINERY_BATCH_VERSION));
  }
  if (batch->total_bytes < sizeof(enginery_batch)) {
    Refuse(StrCat("total_bytes is ", batch->total_bytes, "; a header alone has ",
                  uint64_t{sizeof(enginery_batch)}));
  }
  CheckRange("num_sequences", batch->num_sequences, 1, limits.max_batch_size);
  CheckRange("num_tokens", batch->num_tokens, 1, limits.max_num_tokens);
  CheckRange("num_logit_rows", batch->num_logit_rows, 0, limits.max_logit_rows);
  CheckRange("num_samples", batch->num_samples, 0, limits.max_batch_size);
}

// Sequence s: its tokens, positions, blocks and slots agree with each other.
void CheckSequence(const BatchView& view, const BatchLimits& limits, int64_t s) {
  const int64_t begin = view.cu_seqlens_q[s];
  const int64_t end = view.cu_seqlens_q[s + 1];
  CheckElement("cu_seqlens_q", s + 1, end, begin + 1, view.num_tokens);
  const int64_t context = view.context_lens[s];
  CheckElement("context_lens", s, context, end - begin, limits.max_seq_len);
  const int64_t num_blocks = (context + limits.tokens_per_block - 1) / limits.tokens_per_block;
  if (num_blocks > view.block_table_width) {
    Refuse(StrCat("block_table_width is ", view.block_table_width, "; sequence ", s, " has ",
                  context, " tokens and needs ", num_blocks, " blocks"));
  }
  const int32_t* table = view.block_tables + s * view.block_table_width;
  for (int64_t b = 0; b < num_blocks; ++b) {
    CheckElement("block_tables", s * view.block_table_width + b, table[b], 0,
                 limits.num_blocks - 1);
  }
  for (int64_t t = begin; t < end; ++t) {
    const int64_t position = context - (end - t);
    CheckElement("positions", t, view.positions[t], position, position);
    const int64_t slot = table[position / limits.tokens_per_block] * limits.tokens_per_block +
                         position % limits.tokens_per_block;
    CheckElement("slot_mapping", t, view.slot_mapping[t], slot, slot);
  }
}

}  // namespace

BatchView BatchView::Check(const enginery_batch* batch, const BatchLimits& limits) {
  CheckHeader(batch, limits);
  const uint64_t sequences = batch->num_sequences;
  const uint64_t tokens = batch->num_tokens;
  BatchView view{};
  view.num_sequences = batch->num_sequences;
  view.num_tokens = batch->num_tokens;
  view.num_logit_rows = batch->num_logit_rows;
  view.block_table_width = batch->block_table_width;
  view.num_block_copies = batch->num_block_copies;
  view.num_samples = batch->num_samples;
  view.token_ids = Array<int32_t>(batch, "token_ids", batch->token_ids, tokens);
  view.positions = Array<int32_t>(batch, "positions", batch->positions, tokens);
  view.cu_seqlens_q = Array<int32_t>(batch, "cu_seqlens_q", batch->cu_seqlens_q, sequences + 1);
  view.context_lens = Array<int32_t>(batch, "context_lens", batch->context_lens, sequences);
  view.block_tables = Array<int32_t>(batch, "block_tables", batch->block_tables,
                                     sequences * batch->block_table_width);
  view.slot_mapping = Array<int64_t>(batch, "slot_mapping", batch->slot_mapping, tokens);
  view.block_copies = Array<int32_t>(batch, "block_copies", batch->block_copies,
                                     uint64_t{batch->num_block_copies} * 2);
  view.logit_rows = Array<int32_t>(batch, "logit_rows", batch->logit_rows, batch->num_logit_rows);
  view.samples =
      Array<enginery_sample_record>(batch, "samples", batch->samples, batch->num_samples);

  for (int64_t t = 0; t < view.num_tokens; ++t) {
    CheckElement("token_ids", t, view.token_ids[t], 0, limits.vocab_size - 1);
  }
  CheckElement("cu_seqlens_q", 0, view.cu_seqlens_q[0], 0, 0);
  for (int64_t s = 0; s < view.num_sequences; ++s) CheckSequence(view, limits, s);
  CheckElement("cu_seqlens_q", view.num_sequences, view.cu_seqlens_q[view.num_sequences],
               view.num_tokens, view.num_tokens);
  for (int64_t i = 0; i < 2 * view.num_block_copies; ++i) {
    CheckElement("block_copies", i, view.block_copies[i], 0, limits.num_blocks - 1);
  }
  int64_t previous = -1;
  for (int64_t i = 0; i < view.num_logit_rows; ++i) {
    CheckElement("logit_rows", i, view.logit_rows[i], previous + 1, view.num_tokens - 1);
    previous = view.logit_rows[i];
  }
  for (int64_t i = 0; i < view.num_samples; ++i) {
    CheckElement("samples.logit_row", i, view.samples[i].logit_row, 0, view.num_logit_rows - 1);
  }
  return view;
}

}  // namespace enginery
