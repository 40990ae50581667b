// SPDX-License-Identifier: Apache-2.0
//
// Engine files whose token bytes lie. The valid section: 11 tokens, 20 bytes of data, 96 in all.
#include <cstdint>
#include <limits>

#include "support/refusal.h"

namespace enginery::test {
namespace {

template <class T>
Refusal SectionSets(const char* name, std::function<size_t(const FileMap&)> at, T value,
                    const char* message_part) {
  return Sets<T>(name, std::move(at), value, ENGINERY_INVALID_TOKEN_BYTES, message_part);
}

template <class T>
Refusal SectionSets(const char* name, size_t at, T value, const char* message_part) {
  return SectionSets<T>(
      name, [=](const FileMap& map) { return map.token_bytes + at; }, value, message_part);
}

Refusal OffsetSets(const char* name, size_t id, uint32_t value, const char* message_part) {
  return SectionSets<uint32_t>(
      name, [=](const FileMap& map) { return map.TokenOffset(id); }, value, message_part);
}

Refusal FlagsSet(const char* name, size_t id, uint8_t value, const char* message_part) {
  return SectionSets<uint8_t>(
      name, [=](const FileMap& map) { return map.TokenFlags(id); }, value, message_part);
}

TEST(token_bytes_are_checked) {
  constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();
  CheckRefusals({
      SectionSets<uint32_t>("fewer tokens than the vocabulary", 0, 10,
                            "num_tokens is 10; accepted: 11..16777216"),
      SectionSets<uint32_t>("no tokens", 0, 0, "num_tokens is 0"),
      SectionSets<uint32_t>("one token more", 0, 12, "the section has 96 bytes"),
      SectionSets<uint32_t>("num_tokens wraps", 0, 0xffffffff, "num_tokens is 4294967295"),
      SectionSets<uint32_t>("num_tokens at its limit", 0, 1 << 24, "the section has 96 bytes"),
      SectionSets<uint32_t>("word at 4", 4, 1, "the word at 4 is 1"),
      SectionSets<uint64_t>("data_bytes too small", 8, 12, "data_bytes 12 need"),
      SectionSets<uint64_t>("data_bytes too large", 8, 29, "data_bytes 29 need"),
      SectionSets<uint64_t>("data_bytes wraps", 8, kHuge, "data_bytes 18446744073709551615 need"),
      SectionSets<uint64_t>("data_bytes wraps to fit", 8, kHuge - 74, "data_bytes"),
      SectionSets<uint64_t>("data_bytes behind the last token", 8, 21,
                            "offsets[11] is 20; accepted: data_bytes, 21"),
      OffsetSets("first offset", 0, 1, "offsets[0] is 1; accepted: 0"),
      OffsetSets("an offset that falls", 5, 1,
                 "offsets[5] is 1; accepted: at least the one before"),
      OffsetSets("an offset beyond the data", 6, 0xffffffff, "offsets[7] is"),
      OffsetSets("the last offset too large", 11, 21,
                 "offsets[11] is 21; accepted: data_bytes, 20"),
      OffsetSets("the last offset wraps", 11, 0xffffffff, "offsets[11] is 4294967295"),
      FlagsSet("unknown flag", 3, 4, "flags[3] is 4; accepted: bits 0 and 1"),
      FlagsSet("all flags", 10, 0xff, "flags[10] is 255"),
      FlagsSet("an unused id with text", 3, 2, "id 3 is flagged unused, but has 1 bytes"),
      SectionSets<uint8_t>("padding", 95, 1, "the padding at the end is not zero"),
  });
}

TEST(token_bytes_of_a_wrong_size_are_refused) {
  for (const uint64_t bytes : {0, 15, 16, 88, 95}) {
    AlignedBytes file = TinyEngine().Build();
    Put<uint64_t>(file, FileMap::SectionEntry(1) + 56, bytes);
    Rehash(file);
    const std::string size = std::to_string(bytes);
    CheckRefused(size, file, ENGINERY_INVALID_TOKEN_BYTES,
                 bytes < 16 ? "size is " + size + "; accepted: at least 16"
                            : "the section has " + size + " bytes");
  }
}

TEST(more_tokens_than_the_vocabulary_are_accepted) {
  TinyEngine tiny;
  tiny.builder().AddToken("extra");
  const AlignedBytes file = tiny.Build();
  const auto engine = EngineFile::FromMemory(file, "x");
  CHECK_EQ(engine->token_bytes().num_tokens(), 12u);
  CHECK_EQ(engine->token_bytes().bytes(11), "extra");
}

}  // namespace
}  // namespace enginery::test
