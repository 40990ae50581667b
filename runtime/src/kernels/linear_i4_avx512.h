// SPDX-License-Identifier: Apache-2.0
//
// The product of few rows with i4 weights where memory is the limit: codes are multiplied as they
// come from memory, four panels at a time, and each group's sums by its multiplier. The sums are
// those over unpacked weights: sum of x m q = sum of m times (sum of x (q + 8) - 8 sum of x).
#ifndef ENGINERY_SRC_KERNELS_LINEAR_I4_AVX512_H_
#define ENGINERY_SRC_KERNELS_LINEAR_I4_AVX512_H_

#include "kernels/kernels.h"
#include "kernels/linear.h"

namespace enginery {
namespace {

// Sums of each group of a row of x, times the zero point of codes.
ENGINERY_INLINE int32_t GroupShift(const uint8_t* x, int64_t count) {
  __m512i sum = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
    sum = _mm512_add_epi64(sum, _mm512_sad_epu8(_mm512_loadu_si512(x + i), _mm512_setzero_si512()));
  }
  int64_t total = _mm512_reduce_add_epi64(sum);
  for (; i < count; ++i) total += x[i];
  return static_cast<int32_t>(total) * kI4ZeroPoint;
}

// One row by kPanels panels. `shifts` are the GroupShifts of the row.
template <int kPanels>
void RowI4(const LinearArgs& args, int64_t row, int64_t panel, const int32_t* shifts) {
  constexpr int64_t kBytes = 64;
  const int64_t panel_bytes = PanelBytes(args.k, 8);
  const int64_t num_groups = args.num_groups();
  const std::byte* weight = static_cast<const std::byte*>(args.weight) + panel * panel_bytes;
  const int8_t* scales = args.group_scales + panel * num_groups * kPanelChannels;
  const std::byte* x = static_cast<const std::byte*>(args.x) + row * args.x_pitch;
  const __m512i mask = _mm512_set1_epi8(15);
  // The multipliers of the next panels, whose first are needed soon after the first codes.
  for (int64_t at = 0; at < kPanels * num_groups * kPanelChannels; at += kLineBytes) {
    __builtin_prefetch(scales + kPanels * num_groups * kPanelChannels + at);
  }
  // What lies ahead of a panel's end is the next panel, which is multiplied already.
  int64_t ahead = Prefetch::kOwnBytes;
  int64_t own_eighths = args.k / 8 - Prefetch::kOwnBytes / kBytes;

  __m512i sums[kPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) sums[p] = _mm512_setzero_si512();
  for (int64_t group = 0; group < num_groups; ++group) {
    __m512i products[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) products[p] = _mm512_set1_epi32(-shifts[group]);
    const int64_t left = args.k - group * args.group;
    const int64_t eighths = (left < args.group ? left : args.group) / 8;
    for (int64_t i = 0; i < eighths; ++i) {
      if (own_eighths-- == 0) ahead += (kPanels - 1) * panel_bytes;
      const __m512i low = Broadcast32(x);
      const __m512i high = Broadcast32(x + 4);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        __builtin_prefetch(weight + p * panel_bytes + ahead);
        const __m512i codes = _mm512_loadu_si512(weight + p * panel_bytes);
        DotI8I8::Accumulate(products[p], _mm512_and_si512(codes, mask), low);
        DotI8I8::Accumulate(products[p], _mm512_and_si512(_mm512_srli_epi16(codes, 4), mask), high);
      }
      weight += kBytes;
      x += 8;
    }
    if (group == num_groups - 1 && args.k % 8 != 0) {
      // Inputs past the end may be anything; the codes there are zero points.
      alignas(16) std::byte last[8] = {};
      __builtin_memcpy(last, x, static_cast<size_t>(args.k % 8));
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        const __m512i codes = _mm512_loadu_si512(weight + p * panel_bytes);
        DotI8I8::Accumulate(products[p], _mm512_and_si512(codes, mask), Broadcast32(last));
        DotI8I8::Accumulate(products[p], _mm512_and_si512(_mm512_srli_epi16(codes, 4), mask),
                            Broadcast32(last + 4));
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      const int8_t* at = scales + (p * num_groups + group) * kPanelChannels;
      const __m512i multipliers =
          _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
      sums[p] = _mm512_add_epi32(sums[p], _mm512_mullo_epi32(products[p], multipliers));
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    const int64_t channel = (panel + p) * kPanelChannels;
    const PanelFinish<DotI8I8> finish(args, channel);
    finish.Row(sums[p], args, row, args.y + row * args.y_pitch + channel);
  }
}

}  // namespace
}  // namespace enginery

#include "kernels/linear_i4_rows.h"

#endif  // ENGINERY_SRC_KERNELS_LINEAR_I4_AVX512_H_
