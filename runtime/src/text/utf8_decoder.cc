// SPDX-License-Identifier: Apache-2.0
#include "text/utf8_decoder.h"

namespace enginery {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

void Utf8Decoder::Append(std::string_view bytes, std::string* text) {
  for (const char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    if (num_missing_ == 0) {
      Begin(byte, text);
    } else if (byte < lower_ || byte > upper_) {
      Finish(text);
      Begin(byte, text);
    } else {
      partial_[num_partial_++] = c;
      lower_ = 0x80;
      upper_ = 0xBF;
      if (--num_missing_ == 0) text->append(partial_, static_cast<size_t>(num_partial_));
    }
  }
}

void Utf8Decoder::Finish(std::string* text) {
  if (num_missing_ == 0) return;
  num_missing_ = 0;
  text->append(kReplacement);
}

void Utf8Decoder::Begin(uint8_t byte, std::string* text) {
  if (byte < 0x80) {
    text->push_back(static_cast<char>(byte));
    return;
  }
  if (byte < 0xC2 || byte > 0xF4) {  // a continuation, an overlong form, or above U+10FFFF
    text->append(kReplacement);
    return;
  }
  partial_[0] = static_cast<char>(byte);
  num_partial_ = 1;
  num_missing_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
  // The second byte of these is bounded further: no overlong forms, surrogates, or > U+10FFFF.
  lower_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
  upper_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
}

}  // namespace enginery
