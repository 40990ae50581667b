// SPDX-License-Identifier: Apache-2.0
//
// Bytes in memory aligned as a mapped file is, so that an engine can be opened from them.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <string_view>
#include <vector>

namespace enginery::test {

template <class T>
struct CacheLineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};
  CacheLineAllocator() = default;
  template <class U>
  CacheLineAllocator(const CacheLineAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
  void deallocate(T* p, size_t) { ::operator delete(p, kAlignment); }
  template <class U>
  bool operator==(const CacheLineAllocator<U>&) const {
    return true;
  }
};

using AlignedBytes = std::vector<std::byte, CacheLineAllocator<std::byte>>;

// Little-endian, as the host.
template <class T>
void Put(AlignedBytes& bytes, size_t offset, T value) {
  std::memcpy(&bytes.at(offset + sizeof value - 1) - (sizeof value - 1), &value, sizeof value);
}

template <class T>
T Get(const AlignedBytes& bytes, size_t offset) {
  T value;
  std::memcpy(&value, &bytes.at(offset + sizeof value - 1) - (sizeof value - 1), sizeof value);
  return value;
}

template <class T>
void Append(AlignedBytes& bytes, T value) {
  bytes.resize(bytes.size() + sizeof value);
  Put(bytes, bytes.size() - sizeof value, value);
}

inline void AppendText(AlignedBytes& bytes, std::string_view text, size_t field_bytes) {
  for (size_t i = 0; i < field_bytes; ++i) {
    bytes.push_back(i < text.size() ? static_cast<std::byte>(text[i]) : std::byte{0});
  }
}

inline void PadTo(AlignedBytes& bytes, size_t multiple) {
  bytes.resize((bytes.size() + multiple - 1) / multiple * multiple);
}

}  // namespace enginery::test
