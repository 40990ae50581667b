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

using F32 = __m512;

ENGINERY_INLINE __mmask16 FirstLanes(int64_t n) {
  return static_cast<__mmask16>((uint32_t{1} << n) - 1);
}

ENGINERY_INLINE F32 Set1(float value) { return _mm512_set1_ps(value); }
ENGINERY_INLINE F32 Load(const float* p) { return _mm512_loadu_ps(p); }
ENGINERY_INLINE F32 LoadFirst(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(FirstLanes(n), p);
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
