// SPDX-License-Identifier: Apache-2.0
#include "cache/block_manager.h"

#include <algorithm>
#include <cassert>

namespace enginery {

BlockManager::BlockManager(int64_t num_blocks, int64_t tokens_per_block, bool enable_block_reuse)
    : tokens_per_block_(tokens_per_block),
      enable_block_reuse_(enable_block_reuse),
      ref_counts_(static_cast<size_t>(num_blocks)),
      num_pending_(static_cast<size_t>(num_blocks)),
      free_list_(num_blocks),
      index_(num_blocks, tokens_per_block) {}

BlockManager::SequenceId BlockManager::Create() {
  if (free_ids_.empty()) {
    sequences_.emplace_back();
    return static_cast<SequenceId>(sequences_.size() - 1);
  }
  const SequenceId id = free_ids_.back();
  free_ids_.pop_back();
  return id;
}

void BlockManager::Free(SequenceId sequence) {
  Table& t = table(sequence);
  for (size_t i = t.block_table.size(); i-- > 0;) Release(t.block_table[i]);
  t.block_table.clear();  // keeps its memory for the id's next sequence
  t.num_computed_tokens = 0;
  t.num_indexed_blocks = 0;
  t.last_uid = PrefixIndex::kRoot;
  free_ids_.push_back(sequence);
}

void BlockManager::FindPrefix(std::span<const int32_t> token_ids, Prefix* prefix) const {
  prefix->blocks.clear();
  prefix->num_idle_blocks = 0;
  prefix->last_uid = PrefixIndex::kRoot;
  if (!enable_block_reuse_ || token_ids.empty()) return;
  const auto width = static_cast<size_t>(tokens_per_block_);
  const size_t max_blocks = (token_ids.size() - 1) / width;
  for (size_t i = 0; i < max_blocks; ++i) {
    const int32_t block = index_.Find(prefix->last_uid, token_ids.subspan(i * width, width));
    if (block == PrefixIndex::kNone) return;
    prefix->blocks.push_back(block);
    prefix->num_idle_blocks += ref_count(block) == 0 ? 1 : 0;
    prefix->last_uid = index_.uid(block);
  }
}

bool BlockManager::CanAttach(const Prefix& prefix, int64_t num_tokens,
                             int64_t num_spare_blocks) const {
  const int64_t num_new = NumBlocksFor(num_tokens) - static_cast<int64_t>(prefix.blocks.size());
  return num_new + prefix.num_idle_blocks + num_spare_blocks <= num_free_blocks();
}

int64_t BlockManager::Attach(SequenceId sequence, const Prefix& prefix) {
  Table& t = table(sequence);
  assert(t.block_table.empty());
  for (const int32_t block : prefix.blocks) Retain(block);
  t.block_table.assign(prefix.blocks.begin(), prefix.blocks.end());
  t.num_indexed_blocks = static_cast<int64_t>(prefix.blocks.size());
  t.num_computed_tokens = t.num_indexed_blocks * tokens_per_block_;
  t.last_uid = prefix.last_uid;
  return t.num_computed_tokens;
}

bool BlockManager::CanAllocate(SequenceId sequence, int64_t num_tokens) const {
  return NumNewBlocks(table(sequence), num_tokens) <= num_free_blocks();
}

void BlockManager::Allocate(SequenceId sequence, int64_t num_tokens) {
  Table& t = table(sequence);
  assert(NumNewBlocks(t, num_tokens) <= num_free_blocks());
  const auto num_wanted = static_cast<size_t>(NumBlocksFor(num_tokens));
  for (auto i = static_cast<size_t>(t.num_computed_tokens / tokens_per_block_);
       i < t.block_table.size(); ++i) {
    const int32_t shared = t.block_table[i];
    if (!IsShared(shared)) continue;
    t.block_table[i] = Take();
    if (static_cast<int64_t>(i) * tokens_per_block_ < t.num_computed_tokens) {
      // The table's hold on the source becomes the pending copy's.
      pending_copies_.push_back({shared, t.block_table[i]});
      ++num_pending_[static_cast<size_t>(shared)];
    } else {
      Release(shared);
    }
  }
  while (t.block_table.size() < num_wanted) t.block_table.push_back(Take());
}

void BlockManager::Commit(SequenceId sequence, std::span<const int32_t> token_ids,
                          int64_t num_computed_tokens) {
  Table& t = table(sequence);
  t.num_computed_tokens = num_computed_tokens;
  if (!enable_block_reuse_) return;
  const auto width = static_cast<size_t>(tokens_per_block_);
  for (; (t.num_indexed_blocks + 1) * tokens_per_block_ <= num_computed_tokens;
       ++t.num_indexed_blocks) {
    const auto i = static_cast<size_t>(t.num_indexed_blocks);
    const auto content = token_ids.subspan(i * width, width);
    int32_t& block = t.block_table[i];
    const int32_t known = index_.Find(t.last_uid, content);
    if (known == PrefixIndex::kNone) {
      t.last_uid = index_.Insert(block, t.last_uid, content);
      continue;
    }
    t.last_uid = index_.uid(known);
    if (known == block) continue;
    Retain(known);
    Release(block);
    block = known;
  }
}

BlockManager::SequenceId BlockManager::Fork(SequenceId sequence) {
  const SequenceId id = Create();  // may move the tables: references are taken after it
  Table& child = table(id);
  const Table& parent = table(sequence);
  child.block_table.assign(parent.block_table.begin(), parent.block_table.end());
  child.num_computed_tokens = parent.num_computed_tokens;
  child.num_indexed_blocks = parent.num_indexed_blocks;
  child.last_uid = parent.last_uid;
  for (const int32_t block : child.block_table) ++ref_counts_[static_cast<size_t>(block)];
  return id;
}

void BlockManager::ClearCopies() {
  for (const BlockCopy& copy : pending_copies_) {
    --num_pending_[static_cast<size_t>(copy.from)];
    Release(copy.from);
  }
  pending_copies_.clear();
}

bool BlockManager::IsShared(int32_t block) const {
  const auto b = static_cast<size_t>(block);
  return ref_counts_[b] - num_pending_[b] > 1;
}

int64_t BlockManager::NumNewBlocks(const Table& t, int64_t num_tokens) const {
  const auto num_held = static_cast<int64_t>(t.block_table.size());
  int64_t num_new = std::max<int64_t>(0, NumBlocksFor(num_tokens) - num_held);
  for (int64_t i = t.num_computed_tokens / tokens_per_block_; i < num_held; ++i) {
    num_new += IsShared(t.block_table[static_cast<size_t>(i)]) ? 1 : 0;
  }
  return num_new;
}

int32_t BlockManager::Take() {
  const int32_t block = free_list_.front();
  free_list_.Remove(block);
  if (index_.contains(block)) {
    index_.Erase(block);
    --num_cached_free_blocks_;
  }
  ref_counts_[static_cast<size_t>(block)] = 1;
  return block;
}

void BlockManager::Retain(int32_t block) {
  if (ref_counts_[static_cast<size_t>(block)]++ > 0) return;
  free_list_.Remove(block);
  --num_cached_free_blocks_;  // only cached blocks are found while free
}

void BlockManager::Release(int32_t block) {
  if (--ref_counts_[static_cast<size_t>(block)] > 0) return;
  if (index_.contains(block)) {
    free_list_.PushBack(block);
    ++num_cached_free_blocks_;
  } else {
    free_list_.PushFront(block);
  }
}

}  // namespace enginery
