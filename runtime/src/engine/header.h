// SPDX-License-Identifier: Apache-2.0
//
// The first 256 bytes of an engine file: who it is for and where the section table stands.
#ifndef ENGINERY_SRC_ENGINE_HEADER_H_
#define ENGINERY_SRC_ENGINE_HEADER_H_

#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/error.h"
#include "base/sha256.h"

namespace enginery {

struct Header {
  uint32_t format_version;
  uint64_t file_bytes;
  uint32_t num_sections;
  std::string target;
  std::string sku;
  std::string variant;
  uint32_t tp_size;
  uint32_t tp_rank;
  uint32_t pp_size;
  uint32_t pp_rank;
  std::string builder_version;
  Sha256Digest checksum;  // of the header before it and the section table
};

// Reads and checks the header at the start of `file`, which is the whole file. The section table
// lies in the file, and the checksum over both holds. Throws Error: ENGINERY_BAD_MAGIC, then
// ENGINERY_UNSUPPORTED_VERSION, then ENGINERY_TRUNCATED, ENGINERY_INVALID_HEADER,
// ENGINERY_CHECKSUM_MISMATCH. Every target is accepted here: who runs the engine decides.
Header ReadHeader(ByteSpan file);

// The text field of `bytes` at [offset, offset + size): printable ASCII, then at least one zero,
// zero to the end. Throws Error(status) naming `field`.
std::string ReadText(ByteSpan bytes, size_t offset, size_t size, enginery_status status,
                     std::string_view field);

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_HEADER_H_
