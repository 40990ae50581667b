// SPDX-License-Identifier: Apache-2.0
#include "cache/prefix_index.h"

#include <algorithm>
#include <bit>

namespace enginery {

PrefixIndex::PrefixIndex(int64_t num_blocks, int64_t tokens_per_block)
    : width_(static_cast<size_t>(tokens_per_block)),
      entries_(static_cast<size_t>(num_blocks)),
      token_ids_(entries_.size() * width_),
      buckets_(std::bit_ceil(2 * entries_.size()), kNone) {}

uint32_t PrefixIndex::Bucket(uint64_t parent_uid, std::span<const int32_t> token_ids) const {
  // Multiply and fold; the constants are odd 64-bit fractions of the golden ratio and of pi.
  uint64_t hash = parent_uid * 0x9E3779B97F4A7C15u;
  for (const int32_t id : token_ids) {
    hash = (hash ^ static_cast<uint32_t>(id)) * 0x243F6A8885A308D3u;
    hash ^= hash >> 32;
  }
  return static_cast<uint32_t>(hash & (buckets_.size() - 1));
}

int32_t PrefixIndex::Find(uint64_t parent_uid, std::span<const int32_t> tokens) const {
  int32_t block = buckets_[Bucket(parent_uid, tokens)];
  while (block != kNone) {
    const Entry& entry = entries_[static_cast<size_t>(block)];
    if (entry.parent_uid == parent_uid &&
        std::equal(tokens.begin(), tokens.end(), token_ids(block))) {
      break;
    }
    block = entry.next;
  }
  return block;
}

uint64_t PrefixIndex::Insert(int32_t block, uint64_t parent_uid, std::span<const int32_t> tokens) {
  Entry& entry = entries_[static_cast<size_t>(block)];
  std::copy(tokens.begin(), tokens.end(), token_ids(block));
  const uint32_t bucket = Bucket(parent_uid, tokens);
  entry = {++last_uid_, parent_uid, bucket, buckets_[bucket]};
  buckets_[bucket] = block;
  return entry.uid;
}

void PrefixIndex::Erase(int32_t block) {
  Entry& entry = entries_[static_cast<size_t>(block)];
  int32_t* link = &buckets_[entry.bucket];
  while (*link != block) link = &entries_[static_cast<size_t>(*link)].next;
  *link = entry.next;
  entry.uid = kRoot;
}

}  // namespace enginery
