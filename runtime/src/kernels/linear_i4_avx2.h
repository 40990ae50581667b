// SPDX-License-Identifier: Apache-2.0
//
// The product of few rows with i4 weights where memory is the limit: codes are multiplied as they
// come from memory, two panels at a time, and each group's sums by its multiplier. The sums are
// those over unpacked weights: sum of x m q = sum of m times (sum of x (q + 8) - 8 sum of x).
#ifndef ENGINERY_SRC_KERNELS_LINEAR_I4_AVX2_H_
#define ENGINERY_SRC_KERNELS_LINEAR_I4_AVX2_H_

#include "kernels/dots_avx2.h"
#include "kernels/kernels.h"
#include "kernels/linear.h"
#include "kernels/linear_i4_rows.h"

namespace enginery {
namespace {

// The sum of a group of a row of x, as signed numbers, times the zero point of codes.
ENGINERY_INLINE int32_t GroupShift(const uint8_t* x, int64_t count) {
  __m256i sum = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    sum = _mm256_add_epi64(sum, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
  }
  int64_t lanes[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sum);
  int64_t total = lanes[0] + lanes[1] + lanes[2] + lanes[3];
  for (; i < count; ++i) total += x[i];
  return static_cast<int32_t>(total - count * kActivationZeroPoint) * kI4ZeroPoint;
}

// Codes are 0 .. 15 and inputs -128 .. 127, so an i16 holds the sum of 16 products.
struct I4Products {
  __m256i low, high;  // of 8 channels each, two sums of i16 for one

  ENGINERY_INLINE void Accumulate(const std::byte* codes, __m256i first, __m256i second) {
    low = _mm256_add_epi16(low, Of(Load256(codes), first, second));
    high = _mm256_add_epi16(high, Of(Load256(codes + 32), first, second));
  }
  ENGINERY_INLINE void MoveTo(ExactDot::Halves& sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(low, ones));
    sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(high, ones));
    low = high = _mm256_setzero_si256();
  }

 private:
  // first: the inputs of the codes in the low halves of the bytes.
  static ENGINERY_INLINE __m256i Of(__m256i codes, __m256i first, __m256i second) {
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i in_low = _mm256_and_si256(codes, mask);
    const __m256i in_high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask);
    return _mm256_add_epi16(_mm256_maddubs_epi16(in_low, first),
                            _mm256_maddubs_epi16(in_high, second));
  }
};

// One row by kPanels panels. `shifts` are the GroupShifts of the row.
template <int kPanels>
void RowI4(const LinearArgs& args, int64_t row, int64_t panel, const int32_t* shifts) {
  constexpr int64_t kBytes = 64, kEighthsAtOnce = 4;
  const int64_t panel_bytes = PanelBytes(args.k, 8);
  const int64_t num_groups = args.num_groups();
  const std::byte* weight = static_cast<const std::byte*>(args.weight) + panel * panel_bytes;
  const int8_t* scales = args.group_scales + panel * num_groups * kPanelChannels;
  const std::byte* x = static_cast<const std::byte*>(args.x) + row * args.x_pitch;

  ExactDot::Halves sums[kPanels];
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) sums[p] = ExactDot::Zero();
  for (int64_t group = 0; group < num_groups; ++group) {
    ExactDot::Halves products[kPanels];
    I4Products pairs[kPanels];
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      products[p].low = products[p].high = _mm256_set1_epi32(-shifts[group]);
      pairs[p].low = pairs[p].high = _mm256_setzero_si256();
    }
    const int64_t left = args.k - group * args.group;
    const int64_t count = left < args.group ? left : args.group;
    for (int64_t begin = 0; begin < count; begin += kEighthsAtOnce * 8) {
      const int64_t end = begin + kEighthsAtOnce * 8 < count ? begin + kEighthsAtOnce * 8 : count;
      for (int64_t k = begin; k < end; k += 8) {
        const std::byte* input = x;
        // Inputs past the end may be anything: zeros stand for them.
        alignas(16) std::byte last[8];
        if (end - k < 8) {
          __builtin_memset(last, kActivationZeroPoint, sizeof last);
          __builtin_memcpy(last, x, static_cast<size_t>(end - k));
          input = last;
        }
        const __m256i first = DotI8I8::Broadcast(input);
        const __m256i second = DotI8I8::Broadcast(input + 4);
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) {
          __builtin_prefetch(weight + p * panel_bytes + kFetchAhead);
          pairs[p].Accumulate(weight + p * panel_bytes, first, second);
        }
        weight += kBytes;
        x += 8;
      }
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) pairs[p].MoveTo(products[p]);
    }
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      const int8_t* at = scales + (p * num_groups + group) * kPanelChannels;
      const auto multipliers = [](const int8_t* m) ENGINERY_LAMBDA_INLINE {
        return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(m)));
      };
      sums[p].low =
          _mm256_add_epi32(sums[p].low, _mm256_mullo_epi32(products[p].low, multipliers(at)));
      sums[p].high =
          _mm256_add_epi32(sums[p].high, _mm256_mullo_epi32(products[p].high, multipliers(at + 8)));
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
    const int64_t channel = (panel + p) * kPanelChannels;
    const PanelFinish<DotI8I8> finish(args, channel);
    finish.Row(sums[p], args, row, args.y + row * args.y_pitch + channel);
  }
}

// Few rows one by one; more as kManyRows does it.
template <LinearKernel kManyRows>
void LinearI8I4(const LinearArgs& args) {
  constexpr int64_t kMaxDirectRows = 3;
  if (args.num_rows > kMaxDirectRows) return kManyRows(args);
  const int64_t num_groups = args.num_groups();
  const int32_t* shifts = I4GroupShifts(args, GroupShift);
  ForEachPanelGroup<2>(args.panel_begin, args.panel_end, [&]<int kPanels>(int64_t panel) {
    for (int64_t r = 0; r < args.num_rows; ++r) {
      RowI4<kPanels>(args, r, panel, shifts + r * num_groups);
    }
  });
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LINEAR_I4_AVX2_H_
