// SPDX-License-Identifier: Apache-2.0
//
// The text of one sequence as its tokens come: whole characters, up to the first stop string.
#ifndef ENGINERY_SRC_TEXT_TEXT_STREAM_H_
#define ENGINERY_SRC_TEXT_TEXT_STREAM_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "text/stop_strings.h"
#include "text/utf8_decoder.h"

namespace enginery {

class TextStream {
 public:
  TextStream(const StopStrings* strings, bool include_stop) : matcher_(strings, include_stop) {}

  // `bytes` of the next token. Appends the text that is settled to `text`. Returns the stop string
  // that matched, or StopMatcher::kNone; after a match nothing may be appended.
  int32_t Append(std::string_view bytes, std::string* text) {
    decoded_.clear();
    decoder_.Append(bytes, &decoded_);
    return matcher_.Append(decoded_, text);
  }

  // No token follows: a character that was begun becomes U+FFFD, what was held back is released.
  int32_t Finish(std::string* text) {
    decoded_.clear();
    decoder_.Finish(&decoded_);
    const int32_t match = matcher_.Append(decoded_, text);
    if (match == StopMatcher::kNone) matcher_.Finish(text);
    return match;
  }

 private:
  Utf8Decoder decoder_;
  StopMatcher matcher_;
  std::string decoded_;  // kept for its memory
};

}  // namespace enginery

#endif  // ENGINERY_SRC_TEXT_TEXT_STREAM_H_
