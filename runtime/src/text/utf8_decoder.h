// SPDX-License-Identifier: Apache-2.0
//
// Bytes in pieces to whole UTF-8 characters. What is not UTF-8 becomes U+FFFD, one per maximal
// subpart of an ill-formed sequence (the WHATWG Encoding Standard's UTF-8 decoder; The Unicode
// Standard, section 3.9): the result does not depend on where the pieces are cut.
#ifndef ENGINERY_SRC_TEXT_UTF8_DECODER_H_
#define ENGINERY_SRC_TEXT_UTF8_DECODER_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace enginery {

class Utf8Decoder {
 public:
  // Appends the characters that `bytes` complete to `text` and keeps the start of the next.
  void Append(std::string_view bytes, std::string* text);
  // Nothing follows: a character that was begun becomes U+FFFD.
  void Finish(std::string* text);

 private:
  void Begin(uint8_t byte, std::string* text);

  char partial_[4] = {};
  int num_partial_ = 0;
  int num_missing_ = 0;
  uint8_t lower_ = 0x80;  // bounds of the next byte
  uint8_t upper_ = 0xBF;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_TEXT_UTF8_DECODER_H_
