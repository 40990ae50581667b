// SPDX-License-Identifier: Apache-2.0
//
// The index of the prefix cache: from (uid of the content before a block, the block's token ids) to
// the block that holds it. A hash table chained through arrays with one entry per block at most;
// nothing is allocated after construction.
#ifndef ENGINERY_SRC_CACHE_PREFIX_INDEX_H_
#define ENGINERY_SRC_CACHE_PREFIX_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace enginery {

class PrefixIndex {
 public:
  static constexpr uint64_t kRoot =
      0;  // uid of "nothing before": the first block of a sequence follows it
  static constexpr int32_t kNone = -1;

  PrefixIndex(int64_t num_blocks, int64_t tokens_per_block);

  // The block that holds `token_ids` (tokens_per_block of them) after the content `parent_uid`, or
  // kNone.
  int32_t Find(uint64_t parent_uid, std::span<const int32_t> token_ids) const;
  // Enters `block`, which must not be entered, under a content that Find does not know. Returns its
  // new uid.
  uint64_t Insert(int32_t block, uint64_t parent_uid, std::span<const int32_t> token_ids);
  // Forgets `block`, which must be entered.
  void Erase(int32_t block);

  bool contains(int32_t block) const { return entries_[static_cast<size_t>(block)].uid != kRoot; }
  uint64_t uid(int32_t block) const { return entries_[static_cast<size_t>(block)].uid; }

 private:
  struct Entry {
    uint64_t uid = kRoot;  // kRoot: not entered
    uint64_t parent_uid = kRoot;
    uint32_t bucket = 0;
    int32_t next = kNone;  // in the bucket
  };

  uint32_t Bucket(uint64_t parent_uid, std::span<const int32_t> token_ids) const;
  int32_t* token_ids(int32_t block) { return &token_ids_[static_cast<size_t>(block) * width_]; }
  const int32_t* token_ids(int32_t block) const {
    return &token_ids_[static_cast<size_t>(block) * width_];
  }

  const size_t width_;              // tokens_per_block
  std::vector<Entry> entries_;      // [num_blocks]
  std::vector<int32_t> token_ids_;  // [num_blocks][tokens_per_block]
  std::vector<int32_t> buckets_;    // first block of each, or kNone; a power of two of them
  uint64_t last_uid_ = kRoot;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_CACHE_PREFIX_INDEX_H_
