// SPDX-License-Identifier: Apache-2.0
//
// Engine files that were cut off or damaged, with their checksums as they were.
#include <cstdint>
#include <set>

#include "engine/describe.h"
#include "support/refusal.h"

namespace enginery::test {
namespace {

TEST(every_truncation_is_refused) {
  const AlignedBytes valid = TinyEngine().Build();
  for (size_t size = 0; size < valid.size(); ++size) {
    const AlignedBytes file(valid.begin(), valid.begin() + static_cast<std::ptrdiff_t>(size));
    enginery_status status;
    const std::string message = OpenResult(file, &status);
    if (status != ENGINERY_TRUNCATED) {
      fail(__FILE__, __LINE__, "cut to " + std::to_string(size) + ": " + message);
    }
  }
}

// The header itself says the smaller size: each cut must then be met by a check of its own.
TEST(every_truncation_with_a_size_that_agrees_is_refused) {
  const AlignedBytes valid = TinyEngine().Build();
  for (size_t size = 256; size < valid.size(); ++size) {
    AlignedBytes file(valid.begin(), valid.begin() + static_cast<std::ptrdiff_t>(size));
    Put<uint64_t>(file, 16, size);
    Rehash(file);
    enginery_status status;
    OpenResult(file, &status);
    CHECK_EQ(status, size < 640 ? ENGINERY_INVALID_HEADER : ENGINERY_INVALID_SECTION);
  }
}

TEST(bytes_behind_the_end_are_refused) {
  AlignedBytes file = TinyEngine().Build();
  file.push_back(std::byte{0});
  CheckRefused("one byte more", file, ENGINERY_INVALID_HEADER, "header.file_bytes is");
}

// Every bit of header, section table, program and token bytes is covered by a check at open.
TEST(every_flipped_bit_that_is_checked_at_open_is_refused) {
  const AlignedBytes valid = TinyEngine().Build();
  const FileMap map(valid);
  const uint64_t program_end = map.program + Get<uint64_t>(valid, FileMap::SectionEntry(0) + 56);
  const uint64_t tokens_end = map.token_bytes + Get<uint64_t>(valid, FileMap::SectionEntry(1) + 56);
  AlignedBytes file = valid;
  for (size_t at = 0; at < tokens_end; ++at) {
    if (at >= program_end && at < map.token_bytes) continue;  // a gap: checked by Verify
    // All bits of the header and the table; of the sections one, as they are under one hash.
    for (int bit = 0; bit < (at < map.program ? 8 : 1); ++bit) {
      file[at] ^= std::byte{1} << bit;
      enginery_status status;
      const std::string message = OpenResult(file, &status);
      if (status == ENGINERY_OK || status == ENGINERY_INTERNAL) {
        fail(__FILE__, __LINE__,
             "bit " + std::to_string(bit) + " of byte " + std::to_string(at) + ": " + message);
      }
      file[at] = valid[at];
    }
  }
}

TEST(flipped_bits_in_weights_and_gaps_are_found_by_verify) {
  AlignedBytes file = TinyEngine().Build();
  const auto verify = [&] { EngineFile::FromMemory(file, "test.engine")->Verify([](uint64_t) {}); };
  verify();
  file.back() ^= std::byte{1};
  CHECK_THROWS_WITH(verify(), Error, "the bytes of \"weights\" do not hash");
  file.back() ^= std::byte{1};
  const uint64_t weights = Get<uint64_t>(file, FileMap::SectionEntry(2) + 48);
  REQUIRE(file[weights - 1] == std::byte{0});
  file[weights - 1] = std::byte{1};
  CHECK_THROWS_WITH(verify(), Error, "belong to no section and are not zero");
}

TEST(verify_counts_every_byte_and_names_every_section_that_differs) {
  TinyEngine tiny;
  tiny.builder().extra_sections = {{"more", AlignedBytes(3), 64, 0}};
  AlignedBytes file = tiny.Build();
  uint64_t total = 0;
  EngineFile::FromMemory(file, "x")->Verify([&](uint64_t bytes) { total += bytes; });
  uint64_t expected = 0;
  for (size_t i = 0; i < 4; ++i) expected += Get<uint64_t>(file, FileMap::SectionEntry(i) + 56);
  CHECK_EQ(total, expected);
  file.back() = std::byte{1};
  file[Get<uint64_t>(file, FileMap::SectionEntry(2) + 48)] ^= std::byte{1};
  CHECK_THROWS_WITH(EngineFile::FromMemory(file, "x")->Verify([](uint64_t) {}), Error,
                    "\"weights\", \"more\"");
}

// Any one 32-bit word of the program and the token bytes set to a value at an edge, with the hashes
// made right: it must be refused with an error of the format, or what is read must hold together.
TEST(every_word_at_every_edge_is_refused_or_read_safely) {
  const AlignedBytes valid = TinyEngine().Build();
  const FileMap map(valid);
  const uint64_t tokens_end = map.token_bytes + Get<uint64_t>(valid, FileMap::SectionEntry(1) + 56);
  std::set<enginery_status> seen;
  for (size_t at = map.program; at + 4 <= tokens_end; at += 4) {
    for (const uint32_t edge : {0u, 1u, 0x7fffffffu, 0x80000000u, 0xfffffff8u, 0xffffffffu}) {
      AlignedBytes file = valid;
      Put(file, at, edge);
      Rehash(file);
      try {
        const auto engine = EngineFile::FromMemory(file, "test.engine");
        CHECK(!DescribeJson(*engine).empty());
        seen.insert(ENGINERY_OK);
      } catch (const Error& error) {
        seen.insert(error.status());
      }
    }
  }
  const std::set<enginery_status> expected = {ENGINERY_OK,
                                              ENGINERY_UNSUPPORTED_VERSION,
                                              ENGINERY_INVALID_SECTION,
                                              ENGINERY_INVALID_PROGRAM,
                                              ENGINERY_INVALID_TENSOR,
                                              ENGINERY_INVALID_TOKEN_BYTES};
  for (const enginery_status status : seen) CHECK(expected.contains(status));
  CHECK(seen.contains(ENGINERY_INVALID_PROGRAM));
  CHECK(seen.contains(ENGINERY_INVALID_TENSOR));
  CHECK(seen.contains(ENGINERY_INVALID_TOKEN_BYTES));
}

TEST(another_kind_of_file_is_refused_by_its_magic) {
  for (const std::string text : {"ENG", "{\"a\"", "PK\x03\x04", "ENGINERZ"}) {
    AlignedBytes file;
    AppendText(file, text, text.size());
    CheckRefused(text, file, text == "ENG" ? ENGINERY_TRUNCATED : ENGINERY_BAD_MAGIC, "");
  }
}

TEST(a_later_version_is_refused_even_when_nothing_else_is_known) {
  AlignedBytes file;
  AppendText(file, "ENGINERY", 8);
  Append<uint32_t>(file, 7);
  CheckRefused("version 7", file, ENGINERY_UNSUPPORTED_VERSION, "format_version is 7; accepted: 1");
}

}  // namespace
}  // namespace enginery::test
