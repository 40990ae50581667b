// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_CHARACTER_GATE_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_CHARACTER_GATE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

namespace enginery::triton::trtllm {

// Holds back tokens of a stream until no character is cut between what went and what comes, so that
// whoever turns each response into text by itself, as `postprocessing` does, gets whole characters.
// A token is held for as long as the next ones may complete its last character. It only counts:
// tokens go in the order in which they came. As CharacterGate in
// triton_backend/trtllm/token_text.py.
class CharacterGate {
 public:
  // Adds a token that adds `bytes` to the text.
  void Put(std::string_view bytes) {
    // A character that is not continued was never one: the cut before it breaks nothing.
    if (!bytes.empty() && !Continues(bytes.front())) num_free_ = num_held_;
    ++num_held_;
    for (const char byte : bytes) Follow(byte);
    if (num_missing_ == 0) num_free_ = num_held_;
  }

  // Lets go what may: how many of the tokens that are held.
  size_t Release() {
    num_held_ -= num_free_;
    return std::exchange(num_free_, 0);
  }

  // Lets go all: nothing more comes.
  size_t Flush() {
    num_free_ = 0;
    return std::exchange(num_held_, 0);
  }

 private:
  static bool Continues(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }

  void Follow(char byte) {
    const auto value = static_cast<uint8_t>(byte);
    if (Continues(byte)) {
      num_missing_ = std::max(0, num_missing_ - 1);
    } else if (value >= 0xF0 && value < 0xF5) {
      num_missing_ = 3;
    } else if (value >= 0xE0 && value < 0xF0) {
      num_missing_ = 2;
    } else {
      num_missing_ = value >= 0xC2 && value < 0xE0 ? 1 : 0;
    }
  }

  size_t num_held_ = 0;
  size_t num_free_ = 0;
  int num_missing_ = 0;  // continuation bytes that the last character still lacks
};

}  // namespace enginery::triton::trtllm

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_CHARACTER_GATE_H_
