// SPDX-License-Identifier: Apache-2.0
#include "text/utf8_decoder.h"

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/utf8.h"
#include "check.h"

namespace enginery::test {
namespace {

const std::string kBad = "\xEF\xBF\xBD";

std::string Decode(const std::vector<std::string>& pieces) {
  Utf8Decoder decoder;
  std::string text;
  for (const std::string& piece : pieces) decoder.Append(piece, &text);
  decoder.Finish(&text);
  return text;
}

// The Unicode Standard, table 3-8 and its neighbours: one U+FFFD per maximal subpart.
TEST(ill_formed_sequences) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", ""},
      {"a\xC3\xA9z", "a\xC3\xA9z"},
      {"\x80", kBad},
      {"\xC0\x80", kBad + kBad},                        // overlong: C0 begins nothing
      {"\xE0\x80\xAF", kBad + kBad + kBad},             // overlong: E0 wants A0..BF
      {"\xED\xA0\x80", kBad + kBad + kBad},             // a surrogate
      {"\xF4\x90\x80\x80", kBad + kBad + kBad + kBad},  // above U+10FFFF
      {"\xF5\x80", kBad + kBad},
      {"\xE2\x82", kBad},  // cut off: one
      {"\xF0\x9F\x98", kBad},
      {"\xE2\x82"
       "a",
       kBad + "a"},
      {"\xF0\x9F\xE2\x82\xAC", kBad + "\xE2\x82\xAC"},
      {"\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64",
       "a" + kBad + kBad + kBad + "b" + kBad + "c" + kBad + kBad + "d"},
      {"\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"},
      {std::string("\0", 1), std::string("\0", 1)},
  };
  for (const auto& [bytes, expected] : cases) CHECK_EQ(Decode({bytes}), expected);
}

TEST(a_character_is_given_when_it_is_whole) {
  Utf8Decoder decoder;
  std::string text;
  decoder.Append("\xF0\x9F", &text);
  CHECK_EQ(text, "");
  decoder.Append("\x98", &text);
  CHECK_EQ(text, "");
  decoder.Append("\x80!", &text);
  CHECK_EQ(text, "\xF0\x9F\x98\x80!");
}

TEST(where_the_pieces_are_cut_does_not_matter) {
  std::mt19937 random(1);
  const std::string alphabet = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xED\xA0\xF4\x90\xFF\xE0\x80";
  for (int round = 0; round < 3000; ++round) {
    std::string bytes;
    for (size_t i = random() % 20; i > 0; --i) bytes += alphabet[random() % alphabet.size()];
    std::vector<std::string> pieces;
    for (size_t begin = 0; begin < bytes.size();) {
      const size_t count = random() % 4;
      pieces.push_back(bytes.substr(begin, count));
      begin += count;
    }
    const std::string whole = Decode({bytes});
    CHECK_EQ(Decode(pieces), whole);
    CHECK(IsUtf8(whole));
    if (IsUtf8(bytes)) CHECK_EQ(whole, bytes);
    // Every piece by itself is whole characters.
    Utf8Decoder decoder;
    for (const std::string& piece : pieces) {
      std::string text;
      decoder.Append(piece, &text);
      CHECK(IsUtf8(text));
    }
  }
}

}  // namespace
}  // namespace enginery::test
