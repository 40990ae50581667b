// SPDX-License-Identifier: Apache-2.0
//
// A ScheduledBatch (enginery_batch) after every count, offset, id, position, slot and block in it
// was checked: kernels may follow it without looking.
#ifndef ENGINERY_SRC_EXEC_BATCH_VIEW_H_
#define ENGINERY_SRC_EXEC_BATCH_VIEW_H_

#include <cstdint>

#include "enginery/enginery.h"

namespace enginery {

// What a batch may hold.
struct BatchLimits {
  int64_t max_batch_size, max_num_tokens, max_logit_rows, max_seq_len;
  int64_t tokens_per_block, num_blocks, vocab_size;
};

struct BatchView {
  int64_t num_sequences, num_tokens, num_logit_rows, block_table_width, num_block_copies;
  int64_t num_samples;
  const int32_t* token_ids;  // [num_tokens]
  const int32_t* positions;  // [num_tokens]; those of a sequence follow each other and end at its
                             // context length
  const int32_t* cu_seqlens_q;  // [num_sequences + 1], increasing
  const int32_t* context_lens;  // [num_sequences]
  const int32_t* block_tables;  // [num_sequences][block_table_width]; the first ceil(context /
                                // tokens_per_block) are blocks
  const int64_t* slot_mapping;  // [num_tokens], where block_tables puts the position
  const int32_t* block_copies;  // [num_block_copies][2]
  const int32_t* logit_rows;    // [num_logit_rows], increasing
  const enginery_sample_record* samples;  // [num_samples], of rows of logits that are there

  // Throws Error(ENGINERY_INVALID_ARGUMENT) naming the field. Points into *batch.
  static BatchView Check(const enginery_batch* batch, const BatchLimits& limits);
};

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_BATCH_VIEW_H_
