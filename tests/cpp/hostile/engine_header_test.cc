// SPDX-License-Identifier: Apache-2.0
//
// Engine files whose header or section table lies.
#include <cstdint>
#include <limits>

#include "support/refusal.h"

namespace enginery::test {
namespace {

constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();

Refusal HeaderU32(const char* field, size_t at, uint32_t value, enginery_status status,
                  const char* message_part) {
  return Sets<uint32_t>(
      std::string(field) + " = " + std::to_string(value), [=](const FileMap&) { return at; }, value,
      status, message_part);
}

Refusal HeaderU64(const char* field, size_t at, uint64_t value, enginery_status status,
                  const char* message_part) {
  return Sets<uint64_t>(
      std::string(field) + " = " + std::to_string(value), [=](const FileMap&) { return at; }, value,
      status, message_part);
}

Refusal HeaderText(const char* name, size_t at, std::string text, const char* message_part) {
  return {name,
          [=](AlignedBytes& file, const FileMap&) {
            for (size_t i = 0; i < text.size(); ++i) Put(file, at + i, text[i]);
          },
          ENGINERY_INVALID_HEADER, message_part};
}

// In entry `i` of the section table.
template <class T>
Refusal EntrySets(const char* name, size_t i, size_t at, T value, const char* message_part) {
  return Sets<T>(
      name, [=](const FileMap&) { return FileMap::SectionEntry(i) + at; }, value,
      ENGINERY_INVALID_SECTION, message_part);
}

TEST(header_fields_are_checked) {
  constexpr enginery_status kBad = ENGINERY_INVALID_HEADER;
  const uint64_t file_bytes = TinyEngine().Build().size();
  CheckRefusals({
      HeaderU64("magic", 0, 0x4542494c52555155, ENGINERY_BAD_MAGIC, "accepted: \"ENGINERY\""),
      HeaderU32("format_version", 8, 0, ENGINERY_UNSUPPORTED_VERSION,
                "format_version is 0; accepted: 1"),
      HeaderU32("format_version", 8, 2, ENGINERY_UNSUPPORTED_VERSION,
                "format_version is 2; accepted: 1"),
      HeaderU32("header_bytes", 12, 255, kBad, "header_bytes is 255; accepted: 256"),
      HeaderU64("file_bytes", 16, file_bytes + 1, ENGINERY_TRUNCATED, "file_bytes says"),
      HeaderU64("file_bytes", 16, kHuge, ENGINERY_TRUNCATED,
                "file_bytes says 18446744073709551615"),
      HeaderU64("file_bytes", 16, file_bytes - 1, kBad, "header.file_bytes is"),
      HeaderU64("file_bytes", 16, 0, kBad, "header.file_bytes is 0"),
      HeaderU32("num_sections", 24, 0, kBad, "num_sections is 0; accepted: 1..64"),
      HeaderU32("num_sections", 24, 65, kBad, "num_sections is 65; accepted: 1..64"),
      HeaderU32("num_sections", 24, 0xffffffff, kBad, "num_sections is 4294967295"),
      HeaderU32("section_entry_bytes", 28, 64, kBad, "section_entry_bytes is 64; accepted: 128"),
      HeaderU64("section_table_offset", 32, 0, kBad, "section_table_offset is 0; accepted: 256"),
      HeaderU64("section_table_offset", 32, kHuge, kBad, "section_table_offset is"),
      HeaderU32("tp_size", 136, 0, kBad, "tp_size is 0; accepted: 1..1024"),
      HeaderU32("tp_size", 136, 1025, kBad, "tp_size is 1025; accepted: 1..1024"),
      HeaderU32("tp_rank", 140, 1, kBad, "tp_rank is 1; accepted: 0"),
      HeaderU32("pp_size", 144, 2, kBad, "pp_size is 2; accepted: 1"),
      HeaderU32("pp_rank", 148, 1, kBad, "pp_rank is 1; accepted: 0"),
      HeaderU32("reserved, first", 184, 1, kBad, "reserved"),
      HeaderU32("reserved, last", 220, 1 << 31, kBad, "reserved"),
      HeaderText("target without a zero", 40, "cpucpucpucpucpucpucpucpucpucpucp",
                 "header.target is"),
      HeaderText("target is empty", 40, std::string(4, '\0'), "header.target is \"\""),
      HeaderText("target has something behind the zero", 40, std::string("cpu\0x", 5),
                 "header.target is \"cpu\\x00x"),
      HeaderText("sku is not printable", 72, "c\x7f", "header.sku is \"c\\x7f"),
      HeaderText("variant is not ASCII", 104, "\xc3\xa9", "header.variant is \"\\xc3\\xa9"),
      HeaderText("builder_version has a newline", 152, "0.\n", "header.builder_version is"),
  });
}

TEST(every_target_is_read) {
  TinyEngine tiny;
  tiny.builder().target = "tensorrt";
  tiny.builder().sku = "h200";
  const AlignedBytes file = tiny.Build();
  CHECK_EQ(EngineFile::FromMemory(file, "x")->header().target, "tensorrt");
  CHECK_EQ(EngineFile::FromMemory(file, "x")->header().sku, "h200");
}

TEST(section_table_is_checked) {
  const uint64_t file_bytes = TinyEngine().Build().size();
  const uint64_t table_end = 256 + 3 * 128;
  const auto missing = [](const char* name, size_t entry) {
    return Refusal{std::string("no section ") + name,
                   [=](AlignedBytes& file, const FileMap&) {
                     Put<char>(file, FileMap::SectionEntry(entry), 'x');
                   },
                   ENGINERY_MISSING_SECTION, std::string("there is no section \"") + name + "\""};
  };
  CheckRefusals({
      EntrySets<uint64_t>("name is empty", 2, 0, 0, "sections[2].name is \"\""),
      EntrySets<char>("name is not terminated properly", 2, 40, 'x', "sections[2].name is"),
      EntrySets<uint64_t>("offset in the header", 0, 48, 0, "offset is 0; accepted: 640.."),
      EntrySets<uint64_t>("offset in the table", 0, 48, table_end - 64, "offset is 576"),
      EntrySets<uint64_t>("offset beyond the end", 2, 48, file_bytes + 64,
                          "\"weights\": offset is"),
      EntrySets<uint64_t>("offset wraps", 2, 48, kHuge - 63, "\"weights\": offset is"),
      EntrySets<uint64_t>("offset not aligned", 2, 48, table_end + 8,
                          "a multiple of its alignment, 64"),
      EntrySets<uint64_t>("bytes beyond the end", 2, 56, file_bytes, "\"weights\": bytes is"),
      EntrySets<uint64_t>("offset + bytes wraps", 2, 56, kHuge, "\"weights\": bytes is"),
      EntrySets<uint32_t>("alignment 0", 2, 64, 0, "alignment is 0; accepted: 64..2097152"),
      EntrySets<uint32_t>("alignment 32", 2, 64, 32, "alignment is 32"),
      EntrySets<uint32_t>("alignment 4194304", 2, 64, 4194304, "alignment is 4194304"),
      EntrySets<uint32_t>("alignment 96", 2, 64, 96, "alignment is 96; accepted: a power of two"),
      EntrySets<uint32_t>("alignment does not divide the offset", 2, 64, 2097152,
                          "a multiple of its alignment"),
      EntrySets<uint32_t>("unknown flag", 2, 68, 2, "flags is 2; accepted: 0..1"),
      EntrySets<uint32_t>("program not checked at open", 0, 68, 0,
                          "section \"program\": flags is 0"),
      EntrySets<uint32_t>("token_bytes not checked at open", 1, 68, 0,
                          "section \"token_bytes\": flags is 0"),
      EntrySets<uint32_t>("reserved, first", 1, 72, 1, "reserved bytes 72..95"),
      EntrySets<uint32_t>("reserved, last", 1, 92, 1, "reserved bytes 72..95"),
      EntrySets<uint64_t>("program overlaps token_bytes", 1, 48, table_end, "\"program\""),
      EntrySets<uint64_t>("token_bytes overlaps weights", 2, 48, 5184, "overlap"),
      missing("program", 0),
      missing("token_bytes", 1),
      {"a name stands twice",
       [](AlignedBytes& file, const FileMap&) {
         for (size_t i = 0; i < 48; ++i) {
           Put(file, FileMap::SectionEntry(2) + i, Get<char>(file, FileMap::SectionEntry(1) + i));
         }
       },
       ENGINERY_INVALID_SECTION, "\"token_bytes\" stands twice"},
      {"the table does not fit the file",
       [](AlignedBytes& file, const FileMap&) {
         file.resize(256 + 2 * 128);
         Put<uint64_t>(file, 16, file.size());
       },
       ENGINERY_INVALID_HEADER, "num_sections is 3, whose table ends at byte 640"},
  });
}

TEST(empty_and_unknown_sections_are_ignored) {
  TinyEngine tiny;
  tiny.builder().extra_sections = {{"empty", {}, 4096, 0},
                                   {"tactics", AlignedBytes(5), 2097152, 1}};
  const AlignedBytes file = tiny.Build();
  const auto engine = EngineFile::FromMemory(file, "x");
  REQUIRE(engine->FindSection("tactics") != nullptr);
  CHECK_EQ(engine->SectionBytes(*engine->FindSection("tactics")).size(), 5u);
  CHECK_EQ(engine->SectionBytes(*engine->FindSection("empty")).size(), 0u);
  CHECK(engine->FindSection("none") == nullptr);
}

TEST(sixty_four_sections_are_accepted) {
  TinyEngine tiny;
  for (int i = 0; i < 61; ++i) {
    tiny.builder().extra_sections.push_back({"s" + std::to_string(i), AlignedBytes(1), 64, 1});
  }
  const AlignedBytes file = tiny.Build();
  CHECK_EQ(EngineFile::FromMemory(file, "x")->sections().size(), 64u);
  tiny.builder().extra_sections.push_back({"one more", AlignedBytes(1), 64, 1});
  const AlignedBytes refused = tiny.Build();
  CheckRefused("65 sections", refused, ENGINERY_INVALID_HEADER, "num_sections is 65");
}

}  // namespace
}  // namespace enginery::test
