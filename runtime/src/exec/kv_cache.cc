// SPDX-License-Identifier: Apache-2.0
#include "exec/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/str_cat.h"
#include "kernels/kernels.h"

namespace enginery {

int64_t KvShape::element_bytes() const { return static_cast<int64_t>(ElementBits(dtype) / 8); }

int64_t KvShape::k_bytes() const {
  const int64_t key_dim = dtype == DType::kF32 ? head_dim : PaddedKeyDim(head_dim);
  return key_dim * tokens_per_block * element_bytes();
}

int64_t KvShape::head_bytes() const {
  return k_bytes() + tokens_per_block * PaddedHeadDim(head_dim) * element_bytes();
}

int64_t KvShape::token_bytes() const { return 2 * num_kv_heads * head_dim * element_bytes(); }

KvCache::KvCache(const std::vector<KvShape>& ranks, uint64_t budget_bytes) {
  for (const KvShape& shape : ranks) block_bytes_ += shape.block_bytes();
  const uint64_t num_blocks = budget_bytes / static_cast<uint64_t>(block_bytes_);
  if (num_blocks < 1) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                StrCat("kv_cache_bytes is ", budget_bytes, "; one block of ",
                       ranks.front().tokens_per_block, " tokens takes ", block_bytes_,
                       " bytes: give at least that"));
  }
  num_blocks_ = static_cast<int64_t>(std::min<uint64_t>(num_blocks, INT32_MAX));
  // A head's blocks in use are less than a large page.
  memory_ =
      Reservation(static_cast<uint64_t>(num_blocks_ * block_bytes_), "KV cache", Pages::kSmall);
  std::byte* base = memory_.data();
  for (const KvShape& shape : ranks) {
    views_.push_back({shape, base, num_blocks_});
    base += num_blocks_ * shape.block_bytes();
  }
}

void KvCache::CopyBlock(int64_t from, int64_t to) const {
  if (from == to) return;
  for (const KvView& view : views_) {
    const int64_t bytes = view.shape.head_bytes();
    for (int64_t layer = 0; layer < view.shape.num_layers; ++layer) {
      for (int64_t head = 0; head < view.shape.num_kv_heads; ++head) {
        std::byte* blocks = view.head(layer, head);
        std::memcpy(blocks + to * bytes, blocks + from * bytes, static_cast<size_t>(bytes));
      }
    }
  }
}

}  // namespace enginery
