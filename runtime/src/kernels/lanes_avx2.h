// SPDX-License-Identifier: Apache-2.0
//
// Sixteen lanes in two AVX2 registers. See lanes_portable.h for what each name means.
#ifndef ENGINERY_SRC_KERNELS_LANES_AVX2_H_
#define ENGINERY_SRC_KERNELS_LANES_AVX2_H_

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/inline.h"

namespace enginery {
namespace {

constexpr int kLanes = 16;
constexpr int kReducedRows = 8;

struct F32 {
  __m256 low, high;
};

ENGINERY_INLINE F32 Set1(float value) {
  const __m256 v = _mm256_set1_ps(value);
  return {v, v};
}
ENGINERY_INLINE F32 Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
// All ones in the lanes [first, first + 8) that are below n.
ENGINERY_INLINE __m256i LanesBelow(int64_t n, int first) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n) - first), lane);
}
ENGINERY_INLINE F32 LoadFirst(const float* p, int64_t n) {
  if (n == kLanes) return Load(p);
  return {_mm256_maskload_ps(p, LanesBelow(n, 0)), _mm256_maskload_ps(p + 8, LanesBelow(n, 8))};
}
ENGINERY_INLINE F32 LoadFirstOr(const float* p, int64_t n, F32 rest) {
  const __m256 low = _mm256_castsi256_ps(LanesBelow(n, 0));
  const __m256 high = _mm256_castsi256_ps(LanesBelow(n, 8));
  const F32 first = LoadFirst(p, n);
  return {_mm256_blendv_ps(rest.low, first.low, low),
          _mm256_blendv_ps(rest.high, first.high, high)};
}
ENGINERY_INLINE __m256 WidenBf16(__m128i half) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
ENGINERY_INLINE F32 LoadBf16(const uint16_t* p) {
  return {WidenBf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          WidenBf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
ENGINERY_INLINE void Store(float* p, F32 a) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
ENGINERY_INLINE void StoreFirst(float* p, int64_t n, F32 a) {
  if (n == kLanes) return Store(p, a);  // a masked store costs many times a plain one on AMD
  _mm256_maskstore_ps(p, LanesBelow(n, 0), a.low);
  _mm256_maskstore_ps(p + 8, LanesBelow(n, 8), a.high);
}

ENGINERY_INLINE F32 Add(F32 a, F32 b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
ENGINERY_INLINE F32 Sub(F32 a, F32 b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
ENGINERY_INLINE F32 Mul(F32 a, F32 b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
ENGINERY_INLINE F32 Div(F32 a, F32 b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
ENGINERY_INLINE F32 MulAdd(F32 a, F32 b, F32 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
ENGINERY_INLINE F32 Max(F32 a, F32 b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
ENGINERY_INLINE F32 Min(F32 a, F32 b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
ENGINERY_INLINE F32 Abs(F32 a) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
  return {_mm256_and_ps(a.low, magnitude), _mm256_and_ps(a.high, magnitude)};
}
ENGINERY_INLINE F32 ZeroBelow(F32 x, float bound, F32 value) {
  const __m256 b = _mm256_set1_ps(bound);
  return {_mm256_and_ps(_mm256_cmp_ps(x.low, b, _CMP_GE_OQ), value.low),
          _mm256_and_ps(_mm256_cmp_ps(x.high, b, _CMP_GE_OQ), value.high)};
}
ENGINERY_INLINE F32 RoundToInteger(F32 a) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.low, kMode), _mm256_round_ps(a.high, kMode)};
}
ENGINERY_INLINE __m256 ScaleByInteger(__m256 a, __m256 n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent));
}
ENGINERY_INLINE F32 ScaleByInteger(F32 a, F32 n, F32 x, float bound) {
  return ZeroBelow(x, bound, {ScaleByInteger(a.low, n.low), ScaleByInteger(a.high, n.high)});
}
ENGINERY_INLINE F32 Reciprocal(F32 a) { return Div(Set1(1.0f), a); }

ENGINERY_INLINE float ReduceAdd(F32 a) {
  const __m256 eight = _mm256_add_ps(a.low, a.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
ENGINERY_INLINE float ReduceMax(F32 a) {
  const __m256 eight = _mm256_max_ps(a.low, a.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

ENGINERY_INLINE void ReduceAddEach(const F32 (&rows)[kReducedRows], float* to) {
  for (int r = 0; r < kReducedRows; ++r) to[r] = ReduceAdd(rows[r]);
}
ENGINERY_INLINE void ReduceMaxEach(const F32 (&rows)[kReducedRows], float* to) {
  for (int r = 0; r < kReducedRows; ++r) to[r] = ReduceMax(rows[r]);
}

// bf16 in the low half of each lane.
ENGINERY_INLINE __m256i Bf16Bits(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 is_nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
  const __m256i result = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(is_nan));
  return _mm256_srli_epi32(result, 16);
}
ENGINERY_INLINE void StoreBf16First(uint16_t* p, int64_t n, F32 a) {
  const __m256i packed = _mm256_packus_epi32(Bf16Bits(a.low), Bf16Bits(a.high));
  const __m256i ordered = _mm256_permute4x64_epi64(packed, 0xD8);
  if (n == kLanes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), ordered);
    return;
  }
  uint16_t lanes[kLanes];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), ordered);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
ENGINERY_INLINE F32 RoundToBf16(F32 a) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(Bf16Bits(a.low), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(Bf16Bits(a.high), 16))};
}
// Lanes of 0 .. 255 to bytes.
ENGINERY_INLINE void StoreBytesFirst(uint8_t* p, int64_t n, __m256i low, __m256i high) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8);
  const __m128i bytes =
      _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  if (n == kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
    return;
  }
  uint8_t lanes[kLanes];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lanes), bytes);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

ENGINERY_INLINE __m256i Quantize(__m256 a) {
  const __m256i q = _mm256_cvtps_epi32(a);  // rounds to nearest even
  const __m256i least = _mm256_set1_epi32(-127);
  const __m256i most = _mm256_set1_epi32(127);
  return _mm256_add_epi32(_mm256_min_epi32(_mm256_max_epi32(q, least), most),
                          _mm256_set1_epi32(128));
}
ENGINERY_INLINE void StoreQuantizedFirst(uint8_t* p, int64_t n, F32 a) {
  StoreBytesFirst(p, n, Quantize(a.low), Quantize(a.high));
}
ENGINERY_INLINE void StoreI8First(uint8_t* p, int64_t n, F32 a) {
  const __m256i byte = _mm256_set1_epi32(255);
  StoreBytesFirst(p, n, _mm256_and_si256(_mm256_cvtps_epi32(a.low), byte),
                  _mm256_and_si256(_mm256_cvtps_epi32(a.high), byte));
}

constexpr float kE4M3Max = 448.0f, kE4M3MinNormal = 0x1p-6f, kE4M3Round = 0x1p14f;
constexpr int kE4M3Bias = 120 << 23;
ENGINERY_INLINE __m256i E4M3Code(__m256 a) {
  const __m256i sign_bit = _mm256_set1_epi32(INT32_MIN);
  const __m256i sign = _mm256_and_si256(_mm256_castps_si256(a), sign_bit);
  const __m256 magnitude =
      _mm256_min_ps(_mm256_andnot_ps(_mm256_castsi256_ps(sign_bit), a), _mm256_set1_ps(kE4M3Max));
  const __m256i bits = _mm256_castps_si256(magnitude);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 20), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFFF - kE4M3Bias)), odd);
  const __m256 round = _mm256_set1_ps(kE4M3Round);
  const __m256i subnormal = _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(magnitude, round)),
                                             _mm256_castps_si256(round));
  const __m256 is_subnormal = _mm256_cmp_ps(magnitude, _mm256_set1_ps(kE4M3MinNormal), _CMP_LT_OQ);
  const __m256i code = _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 20), subnormal,
                                          _mm256_castps_si256(is_subnormal));
  return _mm256_or_si256(code, _mm256_srli_epi32(sign, 24));
}
ENGINERY_INLINE void StoreE4M3First(uint8_t* p, int64_t n, F32 a) {
  StoreBytesFirst(p, n, E4M3Code(a.low), E4M3Code(a.high));
}

ENGINERY_INLINE __m256 RoundToE4M3(__m256 a) {
  const __m256 sign_bit = _mm256_set1_ps(-0.0f);
  // Of a NaN and a number the second operand is the smaller one: NaN stays NaN.
  const __m256 magnitude = _mm256_min_ps(_mm256_set1_ps(kE4M3Max), _mm256_andnot_ps(sign_bit, a));
  const __m256i bits = _mm256_castps_si256(magnitude);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 20), _mm256_set1_epi32(1));
  const __m256i carried = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFFF)), odd);
  const __m256 normal =
      _mm256_castsi256_ps(_mm256_and_si256(carried, _mm256_set1_epi32(-0x100000)));
  const __m256 round = _mm256_set1_ps(kE4M3Round);
  const __m256 subnormal = _mm256_sub_ps(_mm256_add_ps(magnitude, round), round);
  const __m256 is_subnormal = _mm256_cmp_ps(magnitude, _mm256_set1_ps(kE4M3MinNormal), _CMP_LT_OQ);
  return _mm256_or_ps(_mm256_blendv_ps(normal, subnormal, is_subnormal),
                      _mm256_and_ps(sign_bit, a));
}
ENGINERY_INLINE F32 RoundToE4M3(F32 a) { return {RoundToE4M3(a.low), RoundToE4M3(a.high)}; }

struct Pairs {
  F32 even, odd;
};
ENGINERY_INLINE __m256i Bf16Pair(__m256 even, __m256 odd) {
  return _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(even), 16),
                         _mm256_castps_si256(odd));
}
ENGINERY_INLINE void StoreBf16Pairs(std::byte* p, const Pairs& pairs) {
  auto* to = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(to, Bf16Pair(pairs.even.low, pairs.odd.low));
  _mm256_storeu_si256(to + 1, Bf16Pair(pairs.even.high, pairs.odd.high));
}
ENGINERY_INLINE void StoreRoundedBf16Pairs(std::byte* p, F32 even, F32 odd) {
  StoreBf16Pairs(p, {RoundToBf16(even), RoundToBf16(odd)});
}
template <int j>
ENGINERY_INLINE __m256 I4ToF32(__m256i codes) {
  const __m256i code =
      _mm256_and_si256(_mm256_srli_epi32(codes, 8 * (j % 4) + 4 * (j / 4)), _mm256_set1_epi32(15));
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(code, _mm256_set1_epi32(8)));
}
template <int j>
ENGINERY_INLINE F32 LoadI4(const std::byte* p) {
  const auto* from = reinterpret_cast<const __m256i*>(p);
  return {I4ToF32<j>(_mm256_loadu_si256(from)), I4ToF32<j>(_mm256_loadu_si256(from + 1))};
}
ENGINERY_INLINE __m256 EvenBf16(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}
ENGINERY_INLINE __m256 OddBf16(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-0x10000)));
}
ENGINERY_INLINE Pairs LoadBf16Pairs(const std::byte* p) {
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32));
  return {{EvenBf16(low), EvenBf16(high)}, {OddBf16(low), OddBf16(high)}};
}
// Eight pairs of bytes, each in 32 bits.
ENGINERY_INLINE __m256i LoadBytePairs(const std::byte* p) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// The byte whose bits begin kShift below the top.
template <int kShift>
ENGINERY_INLINE __m256 I8ToF32(__m256i lanes) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(lanes, kShift), 24));
}
ENGINERY_INLINE Pairs LoadI8Pairs(const std::byte* p) {
  const __m256i low = LoadBytePairs(p);
  const __m256i high = LoadBytePairs(p + 16);
  return {{I8ToF32<24>(low), I8ToF32<24>(high)}, {I8ToF32<16>(low), I8ToF32<16>(high)}};
}
template <int kShift>
ENGINERY_INLINE __m256 E4M3ToF32(__m256i lanes) {
  const __m256i top = _mm256_slli_epi32(lanes, kShift);
  const __m256i sign = _mm256_and_si256(top, _mm256_set1_epi32(INT32_MIN));
  const __m256i magnitude =
      _mm256_and_si256(_mm256_srli_epi32(top, 4), _mm256_set1_epi32(0x7F << 20));
  const __m256i is_subnormal = _mm256_cmpgt_epi32(_mm256_set1_epi32(1 << 23), magnitude);
  const __m256i bias =
      _mm256_sub_epi32(_mm256_set1_epi32(kE4M3Bias), _mm256_slli_epi32(is_subnormal, 23));
  const __m256 excess =
      _mm256_and_ps(_mm256_castsi256_ps(is_subnormal), _mm256_set1_ps(kE4M3MinNormal));
  const __m256 value =
      _mm256_sub_ps(_mm256_castsi256_ps(_mm256_add_epi32(magnitude, bias)), excess);
  return _mm256_or_ps(value, _mm256_castsi256_ps(sign));
}
ENGINERY_INLINE Pairs LoadE4M3Pairs(const std::byte* p) {
  const __m256i low = LoadBytePairs(p);
  const __m256i high = LoadBytePairs(p + 16);
  return {{E4M3ToF32<24>(low), E4M3ToF32<24>(high)}, {E4M3ToF32<16>(low), E4M3ToF32<16>(high)}};
}

// Each channel's multiplier twice in its 32 bits.
struct GroupScales {
  __m256i low, high;
};
ENGINERY_INLINE __m256i WidenGroupScales(const int8_t* p) {
  const __m256i m = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return _mm256_or_si256(_mm256_slli_epi32(m, 16), _mm256_and_si256(m, _mm256_set1_epi32(0xFFFF)));
}
ENGINERY_INLINE GroupScales LoadGroupScales(const int8_t* p) {
  return {WidenGroupScales(p), WidenGroupScales(p + 8)};
}
// Bytes by 16-bit multipliers, the low bytes of the products: even and odd bytes apart. What stands
// in the other byte of a 16-bit lane does not reach the low byte of its product.
ENGINERY_INLINE __m256i MultiplyBytes(__m256i codes, __m256i scales) {
  const __m256i even = _mm256_mullo_epi16(codes, scales);
  const __m256i odd = _mm256_mullo_epi16(_mm256_srli_epi16(codes, 8), scales);
  return _mm256_blendv_epi8(even, _mm256_slli_epi16(odd, 8), _mm256_set1_epi16(-256));
}
ENGINERY_INLINE void Unpack32(const std::byte* p, __m256i scales, std::byte* to) {
  const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i mask = _mm256_set1_epi8(15);
  const __m256i zero = _mm256_set1_epi8(8);
  const __m256i low = _mm256_sub_epi8(_mm256_and_si256(packed, mask), zero);
  const __m256i high = _mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi16(packed, 4), mask), zero);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), MultiplyBytes(low, scales));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 64), MultiplyBytes(high, scales));
}
ENGINERY_INLINE void Unpack64(const std::byte* p, const GroupScales& scales, std::byte* to) {
  Unpack32(p, scales.low, to);
  Unpack32(p + 32, scales.high, to + 32);
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LANES_AVX2_H_
