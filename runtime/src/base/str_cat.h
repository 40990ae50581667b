// SPDX-License-Identifier: Apache-2.0
//
// StrCat("rank is ", rank, "; accepted: 1..4"): messages without streams.
#ifndef ENGINERY_SRC_BASE_STR_CAT_H_
#define ENGINERY_SRC_BASE_STR_CAT_H_

#include <charconv>
#include <concepts>
#include <string>
#include <string_view>

namespace enginery {

inline void StrAppendOne(std::string& out, std::string_view text) { out.append(text); }

// Integers in decimal; floats as the shortest text that reads back as the same number.
template <class Number>
  requires(std::integral<Number> || std::floating_point<Number>)
void StrAppendOne(std::string& out, Number value) {
  static_assert(!std::same_as<Number, bool> && !std::same_as<Number, char>,
                "write what is meant: a word or a number");
  char digits[32];  // a double takes at most 24, a 64-bit integer 20
  const std::to_chars_result end = std::to_chars(digits, digits + sizeof digits, value);
  out.append(digits, static_cast<size_t>(end.ptr - digits));
}

template <class... Parts>
std::string StrCat(const Parts&... parts) {
  std::string out;
  (StrAppendOne(out, parts), ...);
  return out;
}

}  // namespace enginery

#endif  // ENGINERY_SRC_BASE_STR_CAT_H_
