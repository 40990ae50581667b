// SPDX-License-Identifier: Apache-2.0
//
// Structs that begin with `abi_size`, the size the caller knows. A caller compiled with an older
// header has fewer members than we, one compiled with a newer header has more; members are only
// ever appended, so the common front means the same to both.
#ifndef ENGINERY_SRC_API_ABI_STRUCT_H_
#define ENGINERY_SRC_API_ABI_STRUCT_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "base/error.h"

namespace enginery {

// No struct of any version will be larger; an abi_size above it was never set.
inline constexpr uint64_t kMaxAbiSize = 4096;

inline void CheckAbiSize(uint64_t abi_size, const char* type) {
  if (abi_size >= sizeof(uint64_t) && abi_size <= kMaxAbiSize) return;
  throw Error(ENGINERY_INVALID_ARGUMENT, std::string(type) + ".abi_size is " +
                                             std::to_string(abi_size) + "; set it to sizeof(" +
                                             type + ")");
}

// What the caller gave, over `defaults` where the caller's struct is older. Throws when a newer
// caller sets a member that this library does not have: ignoring it would do something else than
// what was asked.
template <class T>
T ReadAbiStruct(const T* from, T defaults, const char* type) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (from == nullptr) throw Error(ENGINERY_INVALID_ARGUMENT, std::string(type) + " is NULL");
  uint64_t abi_size;
  std::memcpy(&abi_size, from, sizeof abi_size);
  CheckAbiSize(abi_size, type);
  const char* bytes = reinterpret_cast<const char*>(from);
  if (abi_size > sizeof(T) &&
      std::any_of(bytes + sizeof(T), bytes + abi_size, [](char byte) { return byte != 0; })) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                std::string(type) + " sets members that this version of the library (" +
                    enginery_version() + ") does not have; use a library as new as the header");
  }
  std::memcpy(static_cast<void*>(&defaults), from, std::min<uint64_t>(abi_size, sizeof(T)));
  defaults.abi_size = sizeof(T);
  return defaults;
}

// Fills the caller's struct as far as it goes, zero where it is newer than ours; `abi_size` stays
// the caller's.
template <class T>
void WriteAbiStruct(const T& value, T* to, uint64_t abi_size, const char* type) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (to == nullptr) throw Error(ENGINERY_INVALID_ARGUMENT, std::string(type) + " is NULL");
  CheckAbiSize(abi_size, type);
  std::memset(static_cast<void*>(to), 0, abi_size);
  std::memcpy(static_cast<void*>(to), &value, std::min<uint64_t>(abi_size, sizeof(T)));
  std::memcpy(static_cast<void*>(to), &abi_size, sizeof abi_size);
}

}  // namespace enginery

#endif  // ENGINERY_SRC_API_ABI_STRUCT_H_
