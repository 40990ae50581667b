// SPDX-License-Identifier: Apache-2.0
#include "text/stop_strings.h"

#include <algorithm>
#include <utility>

namespace enginery {

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  borders_.reserve(strings_.size());
  for (size_t i = 0; i < strings_.size(); ++i) {
    const std::string& s = strings_[i];
    borders_.emplace_back(s.size() + 1, 0);
    for (size_t n = 1; n < s.size(); ++n) {
      borders_[i][n + 1] = Advance(i, borders_[i][n], s[n]);
    }
  }
}

uint32_t StopStrings::Advance(size_t i, uint32_t length, char byte) const {
  const std::string& s = strings_[i];
  while (length > 0 && s[length] != byte) length = borders_[i][length];
  return s[length] == byte ? length + 1 : 0;
}

StopMatcher::StopMatcher(const StopStrings* strings, bool include_stop)
    : strings_(strings), include_stop_(include_stop), lengths_(strings->size(), 0) {}

int32_t StopMatcher::Append(std::string_view text, std::string* released) {
  if (lengths_.empty()) {
    released->append(text);
    return kNone;
  }
  for (const char byte : text) {
    held_.push_back(byte);
    int32_t match = kNone;
    size_t match_bytes = 0;
    for (size_t i = 0; i < lengths_.size(); ++i) {
      lengths_[i] = strings_->Advance(i, lengths_[i], byte);
      const size_t bytes = strings_->string(i).size();
      if (lengths_[i] == bytes && bytes > match_bytes) {
        match = static_cast<int32_t>(i);
        match_bytes = bytes;
      }
    }
    if (match != kNone) {
      released->append(held_, 0, held_.size() - (include_stop_ ? 0 : match_bytes));
      held_.clear();
      return match;
    }
  }
  const uint32_t num_held = *std::max_element(lengths_.begin(), lengths_.end());
  const size_t num_released = held_.size() - num_held;
  released->append(held_, 0, num_released);
  held_.erase(0, num_released);
  return kNone;
}

void StopMatcher::Finish(std::string* released) {
  released->append(held_);
  held_.clear();
}

}  // namespace enginery
