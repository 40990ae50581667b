// SPDX-License-Identifier: Apache-2.0
//
// The product with i4 weights of as many rows as unpacking does not pay for: codes are multiplied
// as they come from memory, and each group's sums by its multiplier. The sums are those over
// unpacked weights: sum of x m q = sum of m times (sum of x (q + 8) - 8 sum of x).
#ifndef ENGINERY_SRC_KERNELS_LINEAR_I4_AVX512_H_
#define ENGINERY_SRC_KERNELS_LINEAR_I4_AVX512_H_

#include "kernels/kernels.h"
#include "kernels/linear.h"
#include "kernels/linear_i4_rows.h"

namespace enginery {
namespace {

// The sum of a group of a row of x, times the zero point of codes.
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

// Eight k of a panel's 16 channels: of each, those of k = 0 .. 3 in the low halves of its bytes.
struct I4Codes {
  static constexpr int kGroup = 8, kWeightBytes = 64;
  __m512i low, high;

  static ENGINERY_INLINE I4Codes Load(const std::byte* p) {
    const __m512i mask = _mm512_set1_epi8(15);
    const __m512i codes = _mm512_loadu_si512(p);
    return {_mm512_and_si512(codes, mask), _mm512_and_si512(_mm512_srli_epi16(codes, 4), mask)};
  }
};

// kRows rows by kPanels panels: 16 sums of a group at most, in registers. Those of all groups are
// in `sums` [kRows][kPanels][16], which are touched once per group. `shifts` as of I4GroupShifts.
template <int kRows, int kPanels, class Prefetch>
void TileI4(const LinearArgs& args, int64_t row, int64_t panel, Prefetch prefetch,
            const int32_t* shifts, int32_t* sums) {
  const int64_t panel_bytes = PanelBytes(args.k, I4Codes::kGroup);
  const int64_t num_groups = args.num_groups();
  const std::byte* weight = static_cast<const std::byte*>(args.weight) + panel * panel_bytes;
  const int8_t* multipliers = args.group_scales + panel * num_groups * kPanelChannels;
  const std::byte* x = static_cast<const std::byte*>(args.x) + row * args.x_pitch;
  const int64_t x_pitch = args.x_pitch;
  shifts += row * num_groups;
  // The multipliers of the next panels, whose first are needed soon after the first codes.
  for (int64_t at = 0; at < kPanels * num_groups * kPanelChannels; at += I4Codes::kWeightBytes) {
    __builtin_prefetch(multipliers + kPanels * num_groups * kPanelChannels + at);
  }

  for (int64_t group = 0; group < num_groups; ++group) {
    __m512i products[kRows][kPanels];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        products[r][p] = _mm512_set1_epi32(-shifts[r * num_groups + group]);
      }
    }
    const auto accumulate = [&](const std::byte* w, const std::byte* input, int64_t input_pitch)
                                ENGINERY_LAMBDA_INLINE {
                                  I4Codes codes[kPanels];
#pragma GCC unroll 8
                                  for (int p = 0; p < kPanels; ++p)
                                    codes[p] = I4Codes::Load(w + p * panel_bytes);
#pragma GCC unroll 8
                                  for (int r = 0; r < kRows; ++r) {
                                    const __m512i low = Broadcast32(input + r * input_pitch);
                                    const __m512i high = Broadcast32(input + r * input_pitch + 4);
#pragma GCC unroll 8
                                    for (int p = 0; p < kPanels; ++p)
                                      DotI8I8::Accumulate(products[r][p], codes[p].low, low);
#pragma GCC unroll 8
                                    for (int p = 0; p < kPanels; ++p)
                                      DotI8I8::Accumulate(products[r][p], codes[p].high, high);
                                  }
                                };
    const int64_t left = args.k - group * args.group;
    const int64_t count = left < args.group ? left : args.group;
    for (int64_t eighths = count / I4Codes::kGroup; eighths > 0; --eighths) {
      prefetch.FetchGroup(weight, panel_bytes);
      accumulate(weight, x, x_pitch);
      weight += I4Codes::kWeightBytes;
      x += I4Codes::kGroup;
    }
    if (const int64_t tail = count % I4Codes::kGroup; tail > 0) {
      // Inputs past the end may be anything; the codes there are zero points.
      alignas(16) std::byte last[kRows][I4Codes::kGroup] = {};
      for (int r = 0; r < kRows; ++r) {
        __builtin_memcpy(last[r], x + r * x_pitch, static_cast<size_t>(tail));
      }
      accumulate(weight, last[0], I4Codes::kGroup);
    }
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const auto* at =
          reinterpret_cast<const __m128i*>(multipliers + (p * num_groups + group) * kPanelChannels);
      const __m512i factors = _mm512_cvtepi8_epi32(_mm_loadu_si128(at));
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        int32_t* to = sums + (r * kPanels + p) * kPanelChannels;
        const __m512i sum = group == 0 ? _mm512_setzero_si512() : _mm512_loadu_si512(to);
        const __m512i added = _mm512_mullo_epi32(products[r][p], factors);
        _mm512_storeu_si512(to, _mm512_add_epi32(sum, added));
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kPanels; ++p) {
    const int64_t channel = (panel + p) * kPanelChannels;
    const PanelFinish<DotI8I8> finish(args, channel);
    for (int r = 0; r < kRows; ++r) {
      const __m512i sum = _mm512_loadu_si512(sums + (r * kPanels + p) * kPanelChannels);
      finish.Row(sum, args, row + r, args.y + (row + r) * args.y_pitch + channel);
    }
  }
}

// The tile of num_rows (1 .. kRows) rows.
template <int kRows, int kPanels, class Prefetch>
ENGINERY_INLINE void TileOfI4(const LinearArgs& args, int64_t num_rows, int64_t row, int64_t panel,
                              Prefetch prefetch, const int32_t* shifts, int32_t* sums) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) {
      return TileOfI4<kRows - 1, kPanels>(args, num_rows, row, panel, prefetch, shifts, sums);
    }
  }
  TileI4<kRows, kPanels>(args, row, panel, prefetch, shifts, sums);
}

// kStreams: panels at once, for up to 4 rows, with memory as the limit. kManyRows: for more than
// kMaxDirectRows.
template <int kStreams, int64_t kMaxDirectRows, LinearKernel kManyRows>
void LinearI8I4(const LinearArgs& args) {
  constexpr int kFewRows = 4, kRows = 8, kMaxPanels = 2;
  if (args.num_rows > kMaxDirectRows) return kManyRows(args);
  const int32_t* shifts = I4GroupShifts(args, GroupShift);
  static_assert(kFewRows * kStreams <= kRows * kMaxPanels);
  alignas(64) int32_t sums[kRows * kMaxPanels * kPanelChannels];
  if (args.num_rows <= kFewRows) {
    ForEachPanelGroup<kStreams>(args.panel_begin, args.panel_end, [&]<int kPanels>(int64_t panel) {
      TileOfI4<kFewRows, kPanels>(args, args.num_rows, 0, panel,
                                  OwnPrefetch<kPanels>::template For<I4Codes>(args, panel), shifts,
                                  sums);
    });
    return;
  }
  ForEachPanelGroup<kMaxPanels>(args.panel_begin, args.panel_end, [&]<int kPanels>(int64_t panel) {
    ForEachTile(0, args.num_rows, kRows, [&](int64_t row, int64_t num_rows) {
      TileOfI4<kRows, kPanels>(args, num_rows, row, panel,
                               NextPrefetch::For<I4Codes, kPanels>(args, row, num_rows, panel),
                               shifts, sums);
    });
  });
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LINEAR_I4_AVX512_H_
