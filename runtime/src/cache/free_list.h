// SPDX-License-Identifier: Apache-2.0
//
// A doubly linked list of block ids, linked through two arrays: every operation is O(1) and
// allocates nothing.
#ifndef ENGINERY_SRC_CACHE_FREE_LIST_H_
#define ENGINERY_SRC_CACHE_FREE_LIST_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace enginery {

class FreeList {
 public:
  // Blocks 0 .. num_blocks - 1, in this order.
  explicit FreeList(int64_t num_blocks);

  int64_t size() const { return size_; }
  int32_t front() const { return next_[end_]; }  // the list must not be empty
  void PushFront(int32_t block) { Insert(block, next_[end_]); }
  void PushBack(int32_t block) { Insert(block, static_cast<int32_t>(end_)); }
  // `block` must be in the list.
  void Remove(int32_t block);
  std::vector<int32_t> ToVector() const;

 private:
  void Insert(int32_t block, int32_t before);

  // Entry end_ closes the ring: its next is the front, its previous the back.
  const size_t end_;
  std::vector<int32_t> next_;
  std::vector<int32_t> previous_;
  int64_t size_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_CACHE_FREE_LIST_H_
