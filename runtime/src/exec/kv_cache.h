// SPDX-License-Identifier: Apache-2.0
//
// The paged KV cache of all ranks, in one reservation that is paid for as blocks are used:
//
//   [rank][layer][kv head][block]{ K [key dim / g][tokens_per_block][g],
//                                  V [tokens_per_block / g][padded head_dim][g] }
//
// with g elements side by side (f32 1, all others 2): the order of packed weights, so that dot
// products and AMX tiles take K and V where they lie, or, where they are codes of i8 or E4M3, once
// they were widened one by one. The blocks of a head stand beside each other: attention
// reads them as a stream, and they do not compete for the same sets of a cache, as they do when all
// heads of a block stand together and their sizes are powers of two. Memory of the cache that was
// never written is zero.
#ifndef ENGINERY_SRC_EXEC_KV_CACHE_H_
#define ENGINERY_SRC_EXEC_KV_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/program.h"
#include "exec/reservation.h"

namespace enginery {

// The cache of one rank.
struct KvShape {
  int64_t num_layers, num_kv_heads, head_dim, tokens_per_block;
  DType dtype;  // kF32, kBF16, kI8 or kF8E4M3

  int64_t element_bytes() const;
  int64_t k_bytes() const;     // of a head in a block
  int64_t head_bytes() const;  // K and V
  int64_t block_bytes() const { return num_layers * num_kv_heads * head_bytes(); }
  int64_t token_bytes() const;  // K and V of a token in a layer, without the padding
};

// Where a rank's heads lie.
struct KvView {
  KvShape shape;
  std::byte* base;  // of this rank
  int64_t num_blocks;

  // K of a head in block 0; V is shape.k_bytes() further, the next block shape.head_bytes().
  std::byte* head(int64_t layer, int64_t head) const {
    return base + (layer * shape.num_kv_heads + head) * num_blocks * shape.head_bytes();
  }
};

class KvCache {
 public:
  KvCache() = default;
  // As many blocks as `budget_bytes` pays for. Throws Error(ENGINERY_INVALID_ARGUMENT) when that is
  // none.
  KvCache(const std::vector<KvShape>& ranks, uint64_t budget_bytes);

  int64_t num_blocks() const { return num_blocks_; }
  int64_t block_bytes() const { return block_bytes_; }
  KvView rank(size_t r) const { return views_[r]; }
  void CopyBlock(int64_t from, int64_t to) const;

 private:
  Reservation memory_;
  int64_t num_blocks_ = 0;
  int64_t block_bytes_ = 0;
  std::vector<KvView> views_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_KV_CACHE_H_
