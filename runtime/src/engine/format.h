// SPDX-License-Identifier: Apache-2.0
//
// Numbers of the engine format, as in docs/engine-format.md.
#ifndef ENGINERY_SRC_ENGINE_FORMAT_H_
#define ENGINERY_SRC_ENGINE_FORMAT_H_

#include <cstdint>
#include <string_view>

namespace enginery {

inline constexpr std::string_view kMagic = "ENGINERY";
inline constexpr uint32_t kFormatVersion = 1;
inline constexpr uint32_t kHeaderBytes = 256;
inline constexpr uint32_t kChecksumOffset = 224;  // of the header's checksum: the last field
inline constexpr uint32_t kSectionEntryBytes = 128;
inline constexpr uint32_t kMaxSections = 64;
inline constexpr uint32_t kMaxTpSize = 1024;
inline constexpr uint32_t kMinAlignment = 64;
inline constexpr uint32_t kMaxAlignment = 2097152;
inline constexpr uint32_t kCheckedAtOpen = 1;  // bit of a section's flags

inline constexpr uint32_t kProgramMagic = 0x4D475250;  // "PRGM"
inline constexpr uint32_t kProgramVersion = 1;
inline constexpr uint32_t kMaxRecords = 1u << 20;  // of each table of the program
inline constexpr uint64_t kMaxColumns = 1u << 24;  // of a value, and ids of a vocabulary
// Names may share bytes, so a small file could stand for very much text. These bound what reading
// it can cost.
inline constexpr uint64_t kMaxTextBytes = 1u << 26;      // all string references together
inline constexpr uint64_t kMaxArrayElements = 1u << 24;  // all array attributes together

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_FORMAT_H_
