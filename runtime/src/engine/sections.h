// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_ENGINE_SECTIONS_H_
#define ENGINERY_SRC_ENGINE_SECTIONS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/sha256.h"
#include "engine/header.h"

namespace enginery {

// One entry of the section table; [offset, offset + bytes) lies in the file.
struct Section {
  std::string name;
  uint64_t offset;
  uint64_t bytes;
  uint32_t alignment;
  uint32_t flags;
  Sha256Digest sha256;
};

// Reads and checks the section table of `file`, whose header was read. Sections do not overlap,
// names are unique, `program` and `token_bytes` are there. Hashes are not checked here. Throws
// Error: ENGINERY_INVALID_SECTION, ENGINERY_MISSING_SECTION.
std::vector<Section> ReadSections(ByteSpan file, const Header& header);

// Null when there is none of that name.
const Section* FindSection(const std::vector<Section>& sections, std::string_view name);

// Throws Error(ENGINERY_INVALID_SECTION) when a byte of `file` that belongs to no section, after
// the section table, is not zero.
void CheckGaps(ByteSpan file, const std::vector<Section>& sections);

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_SECTIONS_H_
