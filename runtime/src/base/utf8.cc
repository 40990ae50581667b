// SPDX-License-Identifier: Apache-2.0
#include "base/utf8.h"

#include <cstddef>
#include <cstdint>

namespace enginery {

bool IsUtf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const uint8_t lead = static_cast<uint8_t>(text[i++]);
    if (lead < 0x80) continue;
    // The first continuation byte has a narrower range after some leads: that is what rules out
    // overlong forms (E0, F0), surrogates (ED) and characters above U+10FFFF (F4).
    size_t num_continuations;
    uint8_t low = 0x80;
    uint8_t high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF) {
      num_continuations = 1;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
      num_continuations = 2;
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
      num_continuations = 3;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    } else {
      return false;
    }
    for (; num_continuations > 0; --num_continuations) {
      if (i == text.size()) return false;
      const uint8_t byte = static_cast<uint8_t>(text[i++]);
      if (byte < low || byte > high) return false;
      low = 0x80;
      high = 0xBF;
    }
  }
  return true;
}

}  // namespace enginery
