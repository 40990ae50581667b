// SPDX-License-Identifier: Apache-2.0
//
// Sixteen lanes in one AVX-512 register. See lanes_portable.h for what each name means.
#ifndef ENGINERY_SRC_KERNELS_LANES_AVX512_H_
#define ENGINERY_SRC_KERNELS_LANES_AVX512_H_

// GCC 12 takes the undefined registers that its own intrinsics start from for a mistake.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstddef>
#include <cstdint>

#include "kernels/inline.h"

namespace enginery {
namespace {

constexpr int kLanes = 16;
constexpr int kReducedRows = 8;

using F32 = __m512;

ENGINERY_INLINE __mmask16 FirstLanes(int64_t n) {
  return static_cast<__mmask16>((uint32_t{1} << n) - 1);
}

ENGINERY_INLINE F32 Set1(float value) { return _mm512_set1_ps(value); }
ENGINERY_INLINE F32 Load(const float* p) { return _mm512_loadu_ps(p); }
ENGINERY_INLINE F32 LoadFirst(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(FirstLanes(n), p);
}
ENGINERY_INLINE F32 LoadFirstOr(const float* p, int64_t n, F32 rest) {
  return _mm512_mask_loadu_ps(rest, FirstLanes(n), p);
}
ENGINERY_INLINE F32 LoadBf16(const uint16_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
ENGINERY_INLINE void Store(float* p, F32 a) { _mm512_storeu_ps(p, a); }
ENGINERY_INLINE void StoreFirst(float* p, int64_t n, F32 a) {
  _mm512_mask_storeu_ps(p, FirstLanes(n), a);
}

ENGINERY_INLINE F32 Add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
ENGINERY_INLINE F32 Sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
ENGINERY_INLINE F32 Mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
ENGINERY_INLINE F32 Div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
ENGINERY_INLINE F32 MulAdd(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
ENGINERY_INLINE F32 Max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
ENGINERY_INLINE F32 Min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
ENGINERY_INLINE F32 Abs(F32 a) { return _mm512_abs_ps(a); }

ENGINERY_INLINE F32 RoundToInteger(F32 a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
ENGINERY_INLINE F32 ScaleByInteger(F32 a, F32 n, F32 x, float bound) {
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(bound), _CMP_GE_OQ), a, n);
}
// Two units in the last place: the division would take sixteen cycles.
ENGINERY_INLINE F32 Reciprocal(F32 a) {
  const F32 r = _mm512_rcp14_ps(a);
  return _mm512_mul_ps(r, _mm512_fnmadd_ps(a, r, _mm512_set1_ps(2.0f)));
}

ENGINERY_INLINE float ReduceAdd(F32 a) {
  const __m256 high = _mm512_extractf32x8_ps(a, 1);
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
ENGINERY_INLINE float ReduceMax(F32 a) {
  const __m256 high = _mm512_extractf32x8_ps(a, 1);
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// Of all rows at once, of which one alone would take longer than what is reduced.
template <class Op>
ENGINERY_INLINE void ReduceEach(const F32 (&rows)[kReducedRows], float* to, const Op& op) {
  F32 eights[4], fours[2];  // what is left of each of two rows, and of each of four
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    eights[i] = op(_mm512_shuffle_f32x4(rows[2 * i], rows[2 * i + 1], 0x44),
                   _mm512_shuffle_f32x4(rows[2 * i], rows[2 * i + 1], 0xEE));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    fours[i] = op(_mm512_shuffle_f32x4(eights[2 * i], eights[2 * i + 1], 0x88),
                  _mm512_shuffle_f32x4(eights[2 * i], eights[2 * i + 1], 0xDD));
  }
  const F32 twos =
      op(_mm512_shuffle_ps(fours[0], fours[1], 0x44), _mm512_shuffle_ps(fours[0], fours[1], 0xEE));
  const __m512i lanes = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
  const F32 each = _mm512_permutexvar_ps(lanes, op(twos, _mm512_movehdup_ps(twos)));
  _mm256_storeu_ps(to, _mm512_castps512_ps256(each));
}
ENGINERY_INLINE void ReduceAddEach(const F32 (&rows)[kReducedRows], float* to) {
  ReduceEach(rows, to, [](F32 a, F32 b) ENGINERY_LAMBDA_INLINE { return Add(a, b); });
}
ENGINERY_INLINE void ReduceMaxEach(const F32 (&rows)[kReducedRows], float* to) {
  ReduceEach(rows, to, [](F32 a, F32 b) ENGINERY_LAMBDA_INLINE { return Max(a, b); });
}

ENGINERY_INLINE void StoreBf16First(uint16_t* p, int64_t n, F32 a) {
  const __m256i rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a));
  _mm256_mask_storeu_epi16(p, FirstLanes(n), rounded);
}
ENGINERY_INLINE void StoreQuantizedFirst(uint8_t* p, int64_t n, F32 a) {
  __m512i q = _mm512_cvtps_epi32(a);  // rounds to nearest even
  q = _mm512_min_epi32(_mm512_max_epi32(q, _mm512_set1_epi32(-127)), _mm512_set1_epi32(127));
  q = _mm512_add_epi32(q, _mm512_set1_epi32(128));
  if (n == kLanes) {  // a masked store of truncated lanes costs many times a plain one
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(q));
  } else {
    _mm512_mask_cvtepi32_storeu_epi8(p, FirstLanes(n), q);
  }
}

ENGINERY_INLINE void StoreI8First(uint8_t* p, int64_t n, F32 a) {
  _mm512_mask_cvtepi32_storeu_epi8(p, FirstLanes(n), _mm512_cvtps_epi32(a));
}

constexpr float kE4M3Max = 448.0f, kE4M3MinNormal = 0x1p-6f, kE4M3Round = 0x1p14f;
constexpr int kE4M3Bias = 120 << 23;
ENGINERY_INLINE void StoreE4M3First(uint8_t* p, int64_t n, F32 a) {
  const F32 magnitude = _mm512_min_ps(_mm512_abs_ps(a), _mm512_set1_ps(kE4M3Max));
  const __m512i bits = _mm512_castps_si512(magnitude);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 20), _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFFF - kE4M3Bias)), odd);
  const F32 round = _mm512_set1_ps(kE4M3Round);
  const __m512i subnormal = _mm512_sub_epi32(_mm512_castps_si512(_mm512_add_ps(magnitude, round)),
                                             _mm512_castps_si512(round));
  const __mmask16 is_subnormal =
      _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(kE4M3MinNormal), _CMP_LT_OQ);
  const __m512i code =
      _mm512_mask_mov_epi32(_mm512_srli_epi32(rounded, 20), is_subnormal, subnormal);
  const __m512i sign =
      _mm512_and_si512(_mm512_srli_epi32(_mm512_castps_si512(a), 24), _mm512_set1_epi32(0x80));
  _mm512_mask_cvtepi32_storeu_epi8(p, FirstLanes(n), _mm512_or_si512(code, sign));
}

ENGINERY_INLINE F32 RoundToE4M3(F32 a) {
  // Of a NaN and a number the second operand is the smaller one: NaN stays NaN.
  const F32 magnitude = _mm512_min_ps(_mm512_set1_ps(kE4M3Max), _mm512_abs_ps(a));
  const __m512i bits = _mm512_castps_si512(magnitude);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 20), _mm512_set1_epi32(1));
  const __m512i carried = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFFF)), odd);
  const F32 normal = _mm512_castsi512_ps(_mm512_and_si512(carried, _mm512_set1_epi32(-0x100000)));
  const F32 round = _mm512_set1_ps(kE4M3Round);
  const F32 subnormal = _mm512_sub_ps(_mm512_add_ps(magnitude, round), round);
  const __mmask16 is_subnormal =
      _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(kE4M3MinNormal), _CMP_LT_OQ);
  const F32 rounded = _mm512_mask_mov_ps(normal, is_subnormal, subnormal);
  const __m512i sign = _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN));
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(rounded), sign));
}
ENGINERY_INLINE F32 RoundToBf16(F32 a) {
  const __m256i rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
}

struct Pairs {
  F32 even, odd;
};
template <int j>
ENGINERY_INLINE F32 LoadI4(const std::byte* p) {
  // The permutation looks at the four lowest bits of a lane alone.
  const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  const __m512i codes = _mm512_srli_epi32(_mm512_loadu_si512(p), 8 * (j % 4) + 4 * (j / 4));
  return _mm512_permutexvar_ps(codes, values);
}
ENGINERY_INLINE Pairs LoadBf16Pairs(const std::byte* p) {
  const __m512i pairs = _mm512_loadu_si512(p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000)))};
}
// Sixteen pairs of bytes, each in 32 bits.
ENGINERY_INLINE __m512i LoadBytePairs(const std::byte* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
ENGINERY_INLINE Pairs LoadI8Pairs(const std::byte* p) {
  const __m512i pairs = LoadBytePairs(p);
  return {_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(pairs, 24), 24)),
          _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(pairs, 16), 24))};
}
// The code whose bits begin kShift below the top of its lane.
template <int kShift>
ENGINERY_INLINE F32 E4M3ToF32(__m512i lanes) {
  const __m512i top = _mm512_slli_epi32(lanes, kShift);
  const __m512i sign = _mm512_and_si512(top, _mm512_set1_epi32(INT32_MIN));
  const __m512i magnitude =
      _mm512_and_si512(_mm512_srli_epi32(top, 4), _mm512_set1_epi32(0x7F << 20));
  const __mmask16 is_subnormal = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(1 << 23));
  const __m512i bias = _mm512_mask_mov_epi32(_mm512_set1_epi32(kE4M3Bias), is_subnormal,
                                             _mm512_set1_epi32(kE4M3Bias + (1 << 23)));
  const F32 value = _mm512_castsi512_ps(_mm512_add_epi32(magnitude, bias));
  const F32 exact = _mm512_mask_sub_ps(value, is_subnormal, value, _mm512_set1_ps(kE4M3MinNormal));
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(exact), sign));
}
ENGINERY_INLINE Pairs LoadE4M3Pairs(const std::byte* p) {
  const __m512i pairs = LoadBytePairs(p);
  return {E4M3ToF32<24>(pairs), E4M3ToF32<16>(pairs)};
}
ENGINERY_INLINE __m512i Bf16Pairs(const Pairs& pairs) {
  const __m512i even = _mm512_srli_epi32(_mm512_castps_si512(pairs.even), 16);
  return _mm512_or_si512(even, _mm512_castps_si512(pairs.odd));
}
ENGINERY_INLINE void StoreBf16Pairs(std::byte* p, const Pairs& pairs) {
  _mm512_storeu_si512(p, Bf16Pairs(pairs));
}
// As StoreBf16Pairs of both RoundToBf16.
ENGINERY_INLINE void StoreRoundedBf16Pairs(std::byte* p, F32 even, F32 odd) {
  const __m512i halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
  // 0, 16, 1, 17, ...
  const __m512i lanes = _mm512_setr_epi32(
      0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007, 0x180008,
      0x190009, 0x1A000A, 0x1B000B, 0x1C000C, 0x1D000D, 0x1E000E, 0x1F000F);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(lanes, halves));
}

// Each channel's multiplier twice in its 32 bits.
using GroupScales = __m512i;
ENGINERY_INLINE GroupScales LoadGroupScales(const int8_t* p) {
  const __m512i m = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm512_or_si512(_mm512_slli_epi32(m, 16), _mm512_and_si512(m, _mm512_set1_epi32(0xFFFF)));
}
// Bytes by 16-bit multipliers, the low bytes of the products: even and odd bytes apart. What stands
// in the other byte of a 16-bit lane does not reach the low byte of its product.
ENGINERY_INLINE __m512i MultiplyBytes(__m512i codes, __m512i scales) {
  const __m512i even = _mm512_mullo_epi16(codes, scales);
  const __m512i odd = _mm512_mullo_epi16(_mm512_srli_epi16(codes, 8), scales);
  return _mm512_mask_mov_epi8(even, 0xAAAAAAAAAAAAAAAA, _mm512_slli_epi16(odd, 8));
}
ENGINERY_INLINE void Unpack64(const std::byte* p, GroupScales scales, std::byte* to) {
  const __m512i packed = _mm512_loadu_si512(p);
  const __m512i mask = _mm512_set1_epi8(15);
  const __m512i zero = _mm512_set1_epi8(8);
  const __m512i low = _mm512_sub_epi8(_mm512_and_si512(packed, mask), zero);
  const __m512i high = _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(packed, 4), mask), zero);
  _mm512_storeu_si512(to, MultiplyBytes(low, scales));
  _mm512_storeu_si512(to + 64, MultiplyBytes(high, scales));
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LANES_AVX512_H_
