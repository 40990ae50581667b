// SPDX-License-Identifier: Apache-2.0
//
// TensorRT-LLM's way to put a list of words into a tensor, int32 [2, n]: in row 0 the tokens of all
// words one after the other; in row 1 where each word ends, padded with -1. [[5, 6, 7], [1, 3, -1]]
// are the words [5] and [6, 7].
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_WORD_LIST_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_WORD_LIST_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace enginery::triton::trtllm {

// `values`: both rows, an even number. Throws Error (INVALID_ARGUMENT) where the ends do not grow,
// lie outside or come after padding.
std::vector<std::vector<int32_t>> ReadWordList(std::string_view name,
                                               std::span<const int32_t> values);

}  // namespace enginery::triton::trtllm

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_WORD_LIST_H_
