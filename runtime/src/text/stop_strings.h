// SPDX-License-Identifier: Apache-2.0
//
// Stop strings, found in text that comes in pieces.
//
// The match is the one that is complete first; of those complete at the same byte, the longest.
// What could still become a match is held back: the longest suffix of the text that begins a stop
// string. So what was released never has to be taken back, and the result does not depend on where
// the pieces are cut.
#ifndef ENGINERY_SRC_TEXT_STOP_STRINGS_H_
#define ENGINERY_SRC_TEXT_STOP_STRINGS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace enginery {

// The strings of a request, prepared (Knuth, Morris and Pratt 1977). Immutable.
class StopStrings {
 public:
  StopStrings() = default;
  // None may be empty; all must be UTF-8.
  explicit StopStrings(std::vector<std::string> strings);

  size_t size() const { return strings_.size(); }
  const std::string& string(size_t i) const { return strings_[i]; }
  // Length of the longest prefix of string `i` that ends the text, when it was `length` before
  // `byte` came.
  uint32_t Advance(size_t i, uint32_t length, char byte) const;

 private:
  std::vector<std::string> strings_;
  // borders_[i][n]: longest proper prefix of the first n bytes of string i that also ends them.
  std::vector<std::vector<uint32_t>> borders_;
};

// The state of one sequence.
class StopMatcher {
 public:
  static constexpr int32_t kNone = -1;

  // `strings` must outlive it. `include_stop`: the match is released too.
  StopMatcher(const StopStrings* strings, bool include_stop);

  // Appends to `released` what of the text so far is settled. Returns the string that matched, or
  // kNone; after a match, what follows it is dropped and nothing may be appended any more.
  int32_t Append(std::string_view text, std::string* released);
  // Nothing follows: releases what was held back.
  void Finish(std::string* released);

 private:
  const StopStrings* strings_;
  bool include_stop_;
  std::vector<uint32_t> lengths_;  // per string: of its prefix that ends the text
  std::string held_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_TEXT_STOP_STRINGS_H_
