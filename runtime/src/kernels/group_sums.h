// SPDX-License-Identifier: Apache-2.0
//
// Sums of consecutive columns of a row. The order of additions of floats is part of the engine
// format, so it is written for 16 partial sums whatever the lanes, and the compiler vectorises it:
// the bits are those of every instruction set. Sums of integers are exact.
#ifndef ENGINERY_SRC_KERNELS_GROUP_SUMS_H_
#define ENGINERY_SRC_KERNELS_GROUP_SUMS_H_

#include <bit>
#include <cstdint>

#include "kernels/kernels.h"

namespace enginery {
namespace {

inline float Widened(float value) { return value; }
inline float Widened(uint16_t bf16) { return std::bit_cast<float>(uint32_t{bf16} << 16); }

// x is f32 or bf16. Partial sum j adds the columns j, j + 16, ... of a group in turn; then the
// upper half of the partial sums is added to the lower one until one is left.
template <class T>
void GroupSumsRow(const T* x, int64_t n, int64_t group, float* y) {
  constexpr int64_t kPartialSums = 16;
  for (int64_t begin = 0; begin < n; begin += group, ++y) {
    const int64_t end = n - begin < group ? n : begin + group;
    float sums[kPartialSums] = {};
    int64_t column = begin;
    for (; column + kPartialSums <= end; column += kPartialSums) {
      for (int64_t j = 0; j < kPartialSums; ++j) sums[j] += Widened(x[column + j]);
    }
    for (int64_t j = 0; column + j < end; ++j) sums[j] += Widened(x[column + j]);
    for (int64_t half = kPartialSums / 2; half > 0; half /= 2) {
      for (int64_t j = 0; j < half; ++j) sums[j] += sums[j + half];
    }
    *y = sums[0];
  }
}

// x holds codes + 128 with a scale. Not beyond 2^24 columns a group.
inline void GroupSumsI8Row(const uint8_t* x, int64_t n, int64_t group, float scale, float* y) {
  for (int64_t begin = 0; begin < n; begin += group, ++y) {
    const int64_t end = n - begin < group ? n : begin + group;
    uint32_t sum = 0;
    for (int64_t column = begin; column < end; ++column) sum += x[column];
    const int64_t codes = int64_t{sum} - (end - begin) * kActivationZeroPoint;
    *y = static_cast<float>(codes) * scale;
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_GROUP_SUMS_H_
