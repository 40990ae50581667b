// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_ENGINE_TOKEN_BYTES_H_
#define ENGINERY_SRC_ENGINE_TOKEN_BYTES_H_

#include <cstdint>
#include <string_view>

#include "base/bytes.h"

namespace enginery {

// Text of each token id, in place in the mapped section.
class TokenBytes {
 public:
  TokenBytes() = default;
  // The arrays as docs/engine-format.md describes them; they must outlive the object.
  TokenBytes(const uint32_t* offsets, const uint8_t* flags, const char* data, uint32_t num_tokens)
      : offsets_(offsets), flags_(flags), data_(data), num_tokens_(num_tokens) {}
  uint32_t num_tokens() const { return num_tokens_; }
  // Bytes that `id` adds to the text; empty for unused ids. `id` must be below num_tokens().
  std::string_view bytes(int32_t id) const {
    return {data_ + offsets_[id], offsets_[id + 1] - offsets_[id]};
  }
  bool is_special(int32_t id) const { return (flags_[id] & 1) != 0; }

 private:
  const uint32_t* offsets_ = nullptr;
  const uint8_t* flags_ = nullptr;
  const char* data_ = nullptr;
  uint32_t num_tokens_ = 0;
};

// Reads section `token_bytes`, which must be 8-byte aligned in memory. Throws
// Error(ENGINERY_INVALID_TOKEN_BYTES), also when there are fewer tokens than `vocab_size`.
TokenBytes ReadTokenBytes(ByteSpan section, int64_t vocab_size);

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_TOKEN_BYTES_H_
