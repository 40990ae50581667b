// SPDX-License-Identifier: Apache-2.0
#include "engine/header.h"

#include <algorithm>

#include "engine/format.h"
#include "engine/invalid.h"

namespace enginery {
namespace {

constexpr enginery_status kStatus = ENGINERY_INVALID_HEADER;

// Magic and version come before everything else: of another kind of file, or of a later version,
// nothing that follows is known.
void CheckMagicAndVersion(ByteSpan file) {
  const size_t num_present = std::min(file.size(), kMagic.size());
  const std::string_view found(reinterpret_cast<const char*>(file.data()), num_present);
  if (found != kMagic.substr(0, num_present)) {
    ThrowInvalid(ENGINERY_BAD_MAGIC, "header.magic", Quoted(found), Quoted(kMagic));
  }
  if (file.size() >= 12) {
    const uint32_t version = Load<uint32_t>(file, 8);
    if (version != kFormatVersion) {
      ThrowInvalid(ENGINERY_UNSUPPORTED_VERSION, "header.format_version", version,
                   StrCat(kFormatVersion));
    }
  }
  if (file.size() < kHeaderBytes) {
    throw Error(ENGINERY_TRUNCATED,
                StrCat("the file has ", file.size(), " bytes; the header takes ", kHeaderBytes));
  }
}

void CheckLayout(ByteSpan file) {
  RequireRange(kStatus, "header.header_bytes", Load<uint32_t>(file, 12), kHeaderBytes,
               kHeaderBytes);
  const uint64_t file_bytes = Load<uint64_t>(file, 16);
  if (file_bytes > file.size()) {
    throw Error(ENGINERY_TRUNCATED, StrCat("the file has ", file.size(),
                                           " bytes; header.file_bytes says ", file_bytes));
  }
  RequireRange(kStatus, "header.file_bytes", file_bytes, file.size(), file.size());
  const uint32_t num_sections = Load<uint32_t>(file, 24);
  RequireRange(kStatus, "header.num_sections", num_sections, 1, kMaxSections);
  RequireRange(kStatus, "header.section_entry_bytes", Load<uint32_t>(file, 28), kSectionEntryBytes,
               kSectionEntryBytes);
  RequireRange(kStatus, "header.section_table_offset", Load<uint64_t>(file, 32), kHeaderBytes,
               kHeaderBytes);
  const uint64_t table_end = kHeaderBytes + uint64_t{num_sections} * kSectionEntryBytes;
  if (table_end > file.size()) {
    throw Error(kStatus,
                StrCat("header.num_sections is ", num_sections, ", whose table ends at byte ",
                       table_end, "; the file has ", file.size(), " bytes"));
  }
}

Sha256Digest CheckChecksum(ByteSpan file, uint32_t num_sections) {
  Sha256Digest stored;
  std::ranges::copy(file.subspan(kChecksumOffset, stored.size()), stored.begin());
  Sha256 hash;
  hash.Update(file.first(kChecksumOffset));
  hash.Update(file.subspan(kHeaderBytes, size_t{num_sections} * kSectionEntryBytes));
  if (hash.Finish() != stored) {
    throw Error(ENGINERY_CHECKSUM_MISMATCH,
                StrCat("header.checksum is ", ToHex(stored),
                       ", but header and section table hash to another value"));
  }
  return stored;
}

}  // namespace

std::string ReadText(ByteSpan bytes, size_t offset, size_t size, enginery_status status,
                     std::string_view field) {
  const char* begin = reinterpret_cast<const char*>(bytes.data() + offset);
  const char* end = std::find(begin, begin + size, '\0');
  const bool is_terminated = end != begin + size;
  const bool is_printable = std::all_of(begin, end, [](char c) { return c >= 0x20 && c < 0x7f; });
  const bool is_padded = std::all_of(end, begin + size, [](char c) { return c == '\0'; });
  if (!is_terminated || !is_printable || !is_padded) {
    ThrowInvalid(status, field, Quoted({begin, size}),
                 StrCat("at most ", size - 1, " printable ASCII characters, then zeros"));
  }
  return std::string(begin, end);
}

Header ReadHeader(ByteSpan file) {
  CheckMagicAndVersion(file);
  CheckLayout(file);
  Header header;
  header.format_version = kFormatVersion;
  header.file_bytes = file.size();
  header.num_sections = Load<uint32_t>(file, 24);
  header.checksum = CheckChecksum(file, header.num_sections);
  header.target = ReadText(file, 40, 32, kStatus, "header.target");
  if (header.target.empty()) ThrowInvalid(kStatus, "header.target", "\"\"", "a target's name");
  header.sku = ReadText(file, 72, 32, kStatus, "header.sku");
  header.variant = ReadText(file, 104, 32, kStatus, "header.variant");
  header.tp_size = Load<uint32_t>(file, 136);
  header.tp_rank = Load<uint32_t>(file, 140);
  header.pp_size = Load<uint32_t>(file, 144);
  header.pp_rank = Load<uint32_t>(file, 148);
  RequireRange(kStatus, "header.tp_size", header.tp_size, 1, kMaxTpSize);
  RequireRange(kStatus, "header.tp_rank", header.tp_rank, 0, header.tp_size - 1);
  RequireRange(kStatus, "header.pp_size", header.pp_size, 1, 1);
  RequireRange(kStatus, "header.pp_rank", header.pp_rank, 0, 0);
  header.builder_version = ReadText(file, 152, 32, kStatus, "header.builder_version");
  if (!IsZero(file.subspan(184, 40))) {
    throw Error(kStatus, "header: the reserved bytes 184..223 are not zero");
  }
  return header;
}

}  // namespace enginery
