// SPDX-License-Identifier: Apache-2.0
#include "engine/invalid.h"

namespace enginery {

std::string Quoted(std::string_view text) {
  static constexpr char kDigits[] = "0123456789abcdef";
  constexpr size_t kMaxShown = 80;
  std::string out = "\"";
  for (const char c : text.substr(0, kMaxShown)) {
    if (c >= 0x20 && c < 0x7f) {
      out += c;
    } else {
      out += "\\x";
      out += kDigits[static_cast<unsigned char>(c) >> 4];
      out += kDigits[static_cast<unsigned char>(c) & 15];
    }
  }
  out += text.size() > kMaxShown ? "...\"" : "\"";
  return out;
}

}  // namespace enginery
