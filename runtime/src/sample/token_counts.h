// SPDX-License-Identifier: Apache-2.0
//
// Which tokens a sequence has, and how often its output has them: what penalties are made of.
#ifndef ENGINERY_SRC_SAMPLE_TOKEN_COUNTS_H_
#define ENGINERY_SRC_SAMPLE_TOKEN_COUNTS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace enginery {

class TokenCounts {
 public:
  struct Entry {
    int32_t token_id;
    uint32_t num_in_output;  // 0: in the prompt alone
  };

  // Counts what was appended to `token_ids` (prompt, then output) since the last call.
  void Update(std::span<const int32_t> token_ids, int64_t num_prompt_tokens) {
    for (; num_counted_ < token_ids.size(); ++num_counted_) {
      const int32_t id = token_ids[num_counted_];
      const auto [place, is_new] = places_.try_emplace(id, entries_.size());
      if (is_new) entries_.push_back({id, 0});
      if (num_counted_ >= static_cast<size_t>(num_prompt_tokens)) {
        ++entries_[place->second].num_in_output;
      }
    }
  }

  // Each token once, in order of first appearance.
  std::span<const Entry> entries() const { return entries_; }

 private:
  size_t num_counted_ = 0;
  std::vector<Entry> entries_;
  std::unordered_map<int32_t, size_t> places_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_SAMPLE_TOKEN_COUNTS_H_
