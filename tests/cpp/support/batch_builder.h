// SPDX-License-Identifier: Apache-2.0
//
// A ScheduledBatch from what it says about each sequence.
#pragma once

#include <cstdint>
#include <vector>

#include "enginery/enginery.h"
#include "support/aligned_bytes.h"

namespace enginery::test {

// The tokens [begin, end) of a sequence in one step.
struct Chunk {
  std::vector<int32_t> tokens;  // of the sequence, at least `end` of them
  int64_t begin = 0, end = 0;
  std::vector<int32_t> block_table;
};

// The arrays of a batch, to be changed before Build() by tests that want a bad one.
struct BatchBuilder {
  int64_t tokens_per_block = 16;
  std::vector<int32_t> token_ids, positions, cu_seqlens_q{0}, context_lens, block_tables;
  std::vector<int64_t> slot_mapping;
  std::vector<int32_t> block_copies, logit_rows;
  std::vector<enginery_sample_record> samples;
  uint32_t block_table_width = 0;

  // Every token wants logits.
  BatchBuilder(const std::vector<Chunk>& chunks, int64_t tokens_per_block)
      : tokens_per_block(tokens_per_block) {
    for (const Chunk& chunk : chunks) {
      if (chunk.block_table.size() > block_table_width) {
        block_table_width = static_cast<uint32_t>(chunk.block_table.size());
      }
    }
    for (const Chunk& chunk : chunks) Add(chunk);
  }

  // Aligned to 64 bytes; the batch stands at its start.
  AlignedBytes Build() const {
    AlignedBytes bytes(sizeof(enginery_batch));
    enginery_batch header{};
    header.magic = ENGINERY_BATCH_MAGIC;
    header.version = ENGINERY_BATCH_VERSION;
    header.num_sequences = static_cast<uint32_t>(context_lens.size());
    header.num_tokens = static_cast<uint32_t>(token_ids.size());
    header.num_logit_rows = static_cast<uint32_t>(logit_rows.size());
    header.block_table_width = block_table_width;
    header.num_block_copies = static_cast<uint32_t>(block_copies.size() / 2);
    header.num_samples = static_cast<uint32_t>(samples.size());
    header.token_ids = AddArray(bytes, token_ids);
    header.positions = AddArray(bytes, positions);
    header.cu_seqlens_q = AddArray(bytes, cu_seqlens_q);
    header.context_lens = AddArray(bytes, context_lens);
    header.block_tables = AddArray(bytes, block_tables);
    header.slot_mapping = AddArray(bytes, slot_mapping);
    header.block_copies = AddArray(bytes, block_copies);
    header.logit_rows = AddArray(bytes, logit_rows);
    header.samples = AddArray(bytes, samples);
    header.total_bytes = bytes.size();
    Put(bytes, 0, header);
    return bytes;
  }

 private:
  void Add(const Chunk& chunk) {
    for (int64_t position = chunk.begin; position < chunk.end; ++position) {
      logit_rows.push_back(static_cast<int32_t>(token_ids.size()));
      token_ids.push_back(chunk.tokens[static_cast<size_t>(position)]);
      positions.push_back(static_cast<int32_t>(position));
      const int64_t block = chunk.block_table[static_cast<size_t>(position / tokens_per_block)];
      slot_mapping.push_back(block * tokens_per_block + position % tokens_per_block);
    }
    cu_seqlens_q.push_back(static_cast<int32_t>(token_ids.size()));
    context_lens.push_back(static_cast<int32_t>(chunk.end));
    for (uint32_t b = 0; b < block_table_width; ++b) {
      block_tables.push_back(b < chunk.block_table.size() ? chunk.block_table[b] : -1);
    }
  }

  template <class T>
  static uint64_t AddArray(AlignedBytes& bytes, const std::vector<T>& values) {
    PadTo(bytes, 8);
    const uint64_t offset = bytes.size();
    for (const T value : values) Append(bytes, value);
    PadTo(bytes, 8);
    return offset;
  }
};

inline const enginery_batch* AsBatch(const AlignedBytes& bytes) {
  return reinterpret_cast<const enginery_batch*>(bytes.data());
}

}  // namespace enginery::test
