// SPDX-License-Identifier: Apache-2.0
//
// Little-endian loads and arithmetic on sizes that come from a file: both are safe for any input.
#ifndef ENGINERY_SRC_BASE_BYTES_H_
#define ENGINERY_SRC_BASE_BYTES_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace enginery {

// Engine files are used in place, and they are little-endian.
static_assert(std::endian::native == std::endian::little);

using ByteSpan = std::span<const std::byte>;

// The number at `offset`, of any alignment. The caller has checked that it lies in `bytes`.
template <class T>
T Load(ByteSpan bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// nullopt where the result does not fit 64 bits.
inline std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b) {
  uint64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

inline std::optional<uint64_t> CheckedMultiply(uint64_t a, uint64_t b) {
  uint64_t product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// Whether [offset, offset + bytes) lies in [0, size).
inline bool FitsIn(uint64_t offset, uint64_t bytes, uint64_t size) {
  return offset <= size && bytes <= size - offset;
}

inline bool IsZero(ByteSpan bytes) {
  for (const std::byte byte : bytes) {
    if (byte != std::byte{0}) return false;
  }
  return true;
}

}  // namespace enginery

#endif  // ENGINERY_SRC_BASE_BYTES_H_
