// SPDX-License-Identifier: Apache-2.0
#include "base/utf8.h"

#include <cstdint>
#include <string>

#include "check.h"

namespace enginery::test {
namespace {

// By the definition: the shortest form of every character, surrogates left out.
std::string Encode(uint32_t c) {
  std::string out;
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 63));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 63));
    out += static_cast<char>(0x80 | ((c >> 6) & 63));
  }
  return out + static_cast<char>(0x80 | (c & 63));
}

TEST(every_character_is_accepted_and_no_prefix_of_one) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    const std::string text = Encode(c);
    const bool is_surrogate = c >= 0xD800 && c < 0xE000;
    if (IsUtf8(text) == is_surrogate) fail(__FILE__, __LINE__, "character " + show(c));
    for (size_t n = 1; n < text.size(); ++n) {
      if (IsUtf8(text.substr(0, n))) fail(__FILE__, __LINE__, "prefix of " + show(c));
    }
  }
}

TEST(malformed_text_is_refused) {
  for (const std::string text :
       {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xfe", "a\xc3", "\xc3 ", "\xe2\x82 ",
        "\xc3\xc3\xa9"}) {
    CHECK(!IsUtf8(text));
  }
  CHECK(IsUtf8(""));
  CHECK(IsUtf8("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z"));
}

}  // namespace
}  // namespace enginery::test
