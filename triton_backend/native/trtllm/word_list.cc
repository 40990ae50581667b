// SPDX-License-Identifier: Apache-2.0
#include "word_list.h"

#include <algorithm>

#include "base/str_cat.h"
#include "native/input_tensor.h"
#include "native/option_value.h"

namespace enginery::triton::trtllm {

std::vector<std::vector<int32_t>> ReadWordList(std::string_view name,
                                               std::span<const int32_t> values) {
  const size_t width = values.size() / 2;
  const std::span<const int32_t> tokens = values.first(width);
  const std::span<const int32_t> ends = values.last(width);
  const auto refuse = [&](std::string_view problem) {
    const std::vector<int32_t> shown(ends.begin(), ends.end());
    RefuseInput(name, StrCat("ends ", Show(shown), ": ", problem));
  };
  std::vector<std::vector<int32_t>> words;
  size_t begin = 0;
  for (size_t i = 0; i < width; ++i) {
    if (ends[i] == -1) {
      if (std::ranges::count(ends.subspan(i), -1) != static_cast<int64_t>(width - i)) {
        refuse("only padding may follow a -1");
      }
      break;
    }
    if (ends[i] <= static_cast<int64_t>(begin) || ends[i] > static_cast<int64_t>(width)) {
      refuse(StrCat("must grow, from 1 at least to ", width, " at most"));
    }
    const auto end = static_cast<size_t>(ends[i]);
    words.emplace_back(tokens.begin() + begin, tokens.begin() + end);
    begin = end;
  }
  return words;
}

}  // namespace enginery::triton::trtllm
