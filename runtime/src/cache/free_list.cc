// SPDX-License-Identifier: Apache-2.0
#include "cache/free_list.h"

#include <numeric>

namespace enginery {

FreeList::FreeList(int64_t num_blocks)
    : end_(static_cast<size_t>(num_blocks)),
      next_(end_ + 1),
      previous_(end_ + 1),
      size_(num_blocks) {
  std::iota(next_.begin(), next_.end(), 1);
  next_[end_] = 0;
  std::iota(previous_.begin(), previous_.end(), -1);
  previous_[0] = static_cast<int32_t>(end_);
}

void FreeList::Remove(int32_t block) {
  const auto b = static_cast<size_t>(block);
  next_[static_cast<size_t>(previous_[b])] = next_[b];
  previous_[static_cast<size_t>(next_[b])] = previous_[b];
  --size_;
}

void FreeList::Insert(int32_t block, int32_t before) {
  const auto b = static_cast<size_t>(block);
  const auto next = static_cast<size_t>(before);
  next_[b] = before;
  previous_[b] = previous_[next];
  next_[static_cast<size_t>(previous_[next])] = block;
  previous_[next] = block;
  ++size_;
}

std::vector<int32_t> FreeList::ToVector() const {
  std::vector<int32_t> blocks;
  for (int32_t b = next_[end_]; b != static_cast<int32_t>(end_);
       b = next_[static_cast<size_t>(b)]) {
    blocks.push_back(b);
  }
  return blocks;
}

}  // namespace enginery
