// SPDX-License-Identifier: Apache-2.0
//
// The KV block manager: which block of the KV cache belongs to which sequences. Integers in and
// out; what lies in a block, and where, is the executor's affair.
//
// A sequence's block_table lists its blocks in order: entry i has the tokens
// [i * tokens_per_block, (i + 1) * tokens_per_block). A block may be in several tables (forks,
// equal prefixes): its ref_count says in how many. It is written only while one table has it.
//
// Blocks that no table has stand in one list, from which allocation takes the front:
//
//     allocate <- front [ 7  2  9 | 4  0  5 ] back
//                         empty     cached, least recently used first
//
//   empty    content of no further use: never used, partly filled, or a duplicate. Released to
//            the front.
//   cached   a full block whose content is known: found again by its tokens (FindPrefix) until it
//            is taken for something else (evicted). Released to the back.
//
// A freed sequence releases its last block first, so a prefix outlives what continues it: of a
// sequence with blocks a, b, c (all full) the list gets c, b, a, and c is evicted first. With
// ref_counts it follows that a cached block is never evicted before its continuations.
//
// Prefix cache. A full block whose KV was computed (Commit) is entered under (uid of the block
// before it, its token ids). A uid is given once and never again, so equal uids mean equal content
// from the sequence's start. The hash only chooses a bucket; a hit is confirmed on the uid and the
// token ids themselves. Commit of a content that is already cached moves the table to the cached
// block and releases the duplicate.
//
// Not thread-safe. No operation allocates once the tables have grown.
#ifndef ENGINERY_SRC_CACHE_BLOCK_MANAGER_H_
#define ENGINERY_SRC_CACHE_BLOCK_MANAGER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "cache/free_list.h"
#include "cache/prefix_index.h"

namespace enginery {

// To be done before a step writes any KV. As long as no sequence is freed between its Allocate and
// ClearCopies, no block is both source and target, and none is a target twice: the copies may be
// done in any order.
struct BlockCopy {
  int32_t from;
  int32_t to;
  bool operator==(const BlockCopy&) const = default;
};

// Cached blocks that hold the start of a prompt; valid until the manager is next changed.
struct Prefix {
  std::vector<int32_t> blocks;
  int64_t num_idle_blocks =
      0;  // of them, those in no table: attaching takes them out of the free list
  uint64_t last_uid = 0;
};

class BlockManager {
 public:
  using SequenceId = int32_t;

  BlockManager(int64_t num_blocks, int64_t tokens_per_block, bool enable_block_reuse);

  // A sequence with an empty table. Ids of freed sequences are used again.
  SequenceId Create();
  // Releases all blocks, the last one first, and ends the id.
  void Free(SequenceId sequence);

  // Longest cached prefix of `token_ids` in whole blocks, leaving at least the last token to be
  // computed (its logits are wanted). Empty when reuse is off. Does not change the order of
  // eviction.
  void FindPrefix(std::span<const int32_t> token_ids, Prefix* prefix) const;
  // Can a new sequence take `prefix`, hold `num_tokens` tokens, and leave `num_spare_blocks` free?
  bool CanAttach(const Prefix& prefix, int64_t num_tokens, int64_t num_spare_blocks) const;
  // Gives an empty sequence the blocks of `prefix`, as computed. Returns their number of tokens.
  int64_t Attach(SequenceId sequence, const Prefix& prefix);

  // Can the table be made to hold `num_tokens` tokens, those after the computed ones in blocks of
  // its own?
  bool CanAllocate(SequenceId sequence, int64_t num_tokens) const;
  // Does it; CanAllocate must hold. A shared block that is to be written further is copied
  // (pending_copies).
  void Allocate(SequenceId sequence, int64_t num_tokens);

  // KV of the first `num_computed_tokens` of `token_ids` now lies in the blocks. Enters full blocks
  // in the prefix cache.
  void Commit(SequenceId sequence, std::span<const int32_t> token_ids, int64_t num_computed_tokens);

  // A sequence that shares all blocks of `sequence`.
  SequenceId Fork(SequenceId sequence);

  // Copies wanted since the last ClearCopies. Their sources are held until then, whoever frees
  // them.
  std::span<const BlockCopy> pending_copies() const { return pending_copies_; }
  void ClearCopies();

  std::span<const int32_t> block_table(SequenceId sequence) const {
    return sequences_[static_cast<size_t>(sequence)].block_table;
  }
  int64_t NumBlocksFor(int64_t num_tokens) const {
    return (num_tokens + tokens_per_block_ - 1) / tokens_per_block_;
  }
  int64_t tokens_per_block() const { return tokens_per_block_; }
  int64_t num_blocks() const { return static_cast<int64_t>(ref_counts_.size()); }
  int64_t num_free_blocks() const { return free_list_.size(); }
  int64_t num_cached_blocks() const { return num_cached_free_blocks_; }  // of the free ones

  // For tests and diagnosis.
  int32_t ref_count(int32_t block) const { return ref_counts_[static_cast<size_t>(block)]; }
  bool is_cached(int32_t block) const { return index_.contains(block); }
  std::vector<int32_t> FreeOrder() const { return free_list_.ToVector(); }

 private:
  struct Table {
    std::vector<int32_t> block_table;
    int64_t num_computed_tokens = 0;
    int64_t num_indexed_blocks = 0;  // leading blocks whose uid is known
    uint64_t last_uid = PrefixIndex::kRoot;
  };

  Table& table(SequenceId sequence) { return sequences_[static_cast<size_t>(sequence)]; }
  const Table& table(SequenceId sequence) const {
    return sequences_[static_cast<size_t>(sequence)];
  }
  bool IsShared(int32_t block) const;
  int64_t NumNewBlocks(const Table& table, int64_t num_tokens) const;
  int32_t Take();
  void Retain(int32_t block);
  void Release(int32_t block);

  const int64_t tokens_per_block_;
  const bool enable_block_reuse_;
  std::vector<int32_t> ref_counts_;   // tables and pending copies that hold the block
  std::vector<int32_t> num_pending_;  // of these, pending copies
  FreeList free_list_;
  PrefixIndex index_;
  int64_t num_cached_free_blocks_ = 0;
  std::vector<Table> sequences_;
  std::vector<SequenceId> free_ids_;
  std::vector<BlockCopy> pending_copies_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_CACHE_BLOCK_MANAGER_H_
