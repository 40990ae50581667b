// SPDX-License-Identifier: Apache-2.0
#include "sample/exp_weights.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#include "sample/logit_scan.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push  // GCC bug 105593: its own header looks uninitialised to it
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif

namespace enginery {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Weights are computed so many at a time; those past the end count as weights of -infinity, 0.
constexpr size_t kGroup = 16;

// exp(x) = 2^n exp(r), |r| <= ln(2) / 2; Cody and Waite's two-part ln(2), and a polynomial that is
// exp's Taylor series to degree 7 (error below 2^-26 there).
constexpr float kMin = -87.0f;
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2High = 0.693359375f;
constexpr float kLn2Low = -2.12194440e-4f;
constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
constexpr float kTaylor[] = {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f,
                             0.5f,          1.0f,          1.0f};
constexpr float kTaylorFirst = 1.0f / 5040.0f;

// ---- Vectors of the compiler's, four lanes wide: every x86-64 and AArch64 has these instructions,
// and elsewhere they are lowered to scalars with the same results.

using Floats = float __attribute__((vector_size(16)));
using Ints = int32_t __attribute__((vector_size(16)));
using Doubles = double __attribute__((vector_size(32)));

inline Floats Exp(Floats x) {
  const Ints is_zero = x < kMin;
  const Floats clamped = is_zero ? Floats{} + kMin : x;
  const Floats n = (clamped * kLog2E + kRound) - kRound;
  const Floats r = (clamped - n * kLn2High) - n * kLn2Low;
  Floats p = Floats{} + kTaylorFirst;
  for (const float coefficient : kTaylor) p = p * r + coefficient;
  const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  return p * std::bit_cast<Floats>(exponent & ~is_zero);
}

// Divided, not multiplied by the reciprocal: that of a tiny temperature is infinite.
double BaselineWeights(const float* logits, size_t count, float max, float temperature,
                       float* weights) {
  Doubles sums[4] = {};
  float padded[kGroup];
  for (size_t i = 0; i < count; i += kGroup) {
    const size_t num_left = std::min(kGroup, count - i);
    const float* from = logits + i;
    if (num_left < kGroup) {
      std::fill(std::copy_n(from, num_left, padded), padded + kGroup, -kInfinity);
      from = padded;
    }
    Floats group[4];
    for (size_t j = 0; j < 4; ++j) {
      Floats x;
      std::memcpy(&x, from + 4 * j, sizeof x);
      group[j] = Exp((x - max) / temperature);
      sums[j] += __builtin_convertvector(group[j], Doubles);
    }
    std::memcpy(weights + i, group, num_left * sizeof(float));
  }
  const Doubles sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

#if defined(__x86_64__)
// ---- The same in the intrinsics of wider registers: products and sums stay apart, as above.

#define ENGINERY_AVX2 __attribute__((target("avx2")))
#define ENGINERY_AVX512 __attribute__((target("avx512f")))

ENGINERY_AVX2 inline __m256 ExpAvx2(__m256 x) {
  const __m256 is_zero = _mm256_cmp_ps(x, _mm256_set1_ps(kMin), _CMP_LT_OQ);
  const __m256 clamped = _mm256_blendv_ps(x, _mm256_set1_ps(kMin), is_zero);
  const __m256 round = _mm256_set1_ps(kRound);
  const __m256 n =
      _mm256_sub_ps(_mm256_add_ps(_mm256_mul_ps(clamped, _mm256_set1_ps(kLog2E)), round), round);
  const __m256 r = _mm256_sub_ps(_mm256_sub_ps(clamped, _mm256_mul_ps(n, _mm256_set1_ps(kLn2High))),
                                 _mm256_mul_ps(n, _mm256_set1_ps(kLn2Low)));
  __m256 p = _mm256_set1_ps(kTaylorFirst);
  for (const float coefficient : kTaylor) {
    p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(coefficient));
  }
  const __m256i exponent =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(p, _mm256_andnot_ps(is_zero, _mm256_castsi256_ps(exponent)));
}

ENGINERY_AVX2 double Avx2Weights(const float* logits, size_t count, float max, float temperature,
                                 float* weights) {
  const __m256 maxima = _mm256_set1_ps(max);
  const __m256 temperatures = _mm256_set1_ps(temperature);
  __m256d sums[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                     _mm256_setzero_pd()};
  float padded[kGroup];
  for (size_t i = 0; i < count; i += kGroup) {
    const size_t num_left = std::min(kGroup, count - i);
    const bool is_whole = num_left == kGroup;
    const float* from = logits + i;
    if (!is_whole) {
      std::fill(std::copy_n(from, num_left, padded), padded + kGroup, -kInfinity);
      from = padded;
    }
    float* to = is_whole ? weights + i : padded;
    for (size_t j = 0; j < 2; ++j) {
      const __m256 x = _mm256_sub_ps(_mm256_loadu_ps(from + 8 * j), maxima);
      const __m256 weight = ExpAvx2(_mm256_div_ps(x, temperatures));
      _mm256_storeu_ps(to + 8 * j, weight);
      sums[2 * j] = _mm256_add_pd(sums[2 * j], _mm256_cvtps_pd(_mm256_castps256_ps128(weight)));
      sums[2 * j + 1] =
          _mm256_add_pd(sums[2 * j + 1], _mm256_cvtps_pd(_mm256_extractf128_ps(weight, 1)));
    }
    if (!is_whole) std::copy_n(padded, num_left, weights + i);
  }
  double sum[4];
  _mm256_storeu_pd(sum,
                   _mm256_add_pd(_mm256_add_pd(sums[0], sums[2]), _mm256_add_pd(sums[1], sums[3])));
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

ENGINERY_AVX512 inline __m512 ExpAvx512(__m512 x) {
  const __mmask16 is_zero = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kMin), _CMP_LT_OQ);
  const __m512 clamped = _mm512_mask_mov_ps(x, is_zero, _mm512_set1_ps(kMin));
  const __m512 round = _mm512_set1_ps(kRound);
  const __m512 n =
      _mm512_sub_ps(_mm512_add_ps(_mm512_mul_ps(clamped, _mm512_set1_ps(kLog2E)), round), round);
  const __m512 r = _mm512_sub_ps(_mm512_sub_ps(clamped, _mm512_mul_ps(n, _mm512_set1_ps(kLn2High))),
                                 _mm512_mul_ps(n, _mm512_set1_ps(kLn2Low)));
  __m512 p = _mm512_set1_ps(kTaylorFirst);
  for (const float coefficient : kTaylor) {
    p = _mm512_add_ps(_mm512_mul_ps(p, r), _mm512_set1_ps(coefficient));
  }
  const __m512i exponent =
      _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvttps_epi32(n), _mm512_set1_epi32(127)), 23);
  const __mmask16 is_counted = static_cast<__mmask16>(~is_zero);
  return _mm512_mul_ps(p, _mm512_castsi512_ps(_mm512_maskz_mov_epi32(is_counted, exponent)));
}

ENGINERY_AVX512 double Avx512Weights(const float* logits, size_t count, float max,
                                     float temperature, float* weights) {
  const __m512 maxima = _mm512_set1_ps(max);
  const __m512 temperatures = _mm512_set1_ps(temperature);
  __m512d sums[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
  for (size_t i = 0; i < count; i += kGroup) {
    const size_t num_left = std::min(kGroup, count - i);
    const auto is_there = static_cast<__mmask16>((1u << num_left) - 1);
    const __m512 logit = _mm512_mask_loadu_ps(_mm512_set1_ps(-kInfinity), is_there, logits + i);
    const __m512 weight = ExpAvx512(_mm512_div_ps(_mm512_sub_ps(logit, maxima), temperatures));
    _mm512_mask_storeu_ps(weights + i, is_there, weight);
    const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(weight), 1));
    sums[0] = _mm512_add_pd(sums[0], _mm512_cvtps_pd(_mm512_castps512_ps256(weight)));
    sums[1] = _mm512_add_pd(sums[1], _mm512_cvtps_pd(high));
  }
  double sum[8];
  _mm512_storeu_pd(sum, _mm512_add_pd(sums[0], sums[1]));
  for (size_t j = 0; j < 4; ++j) sum[j] += sum[j + 4];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
#endif

}  // namespace

float ExpNonPositive(float x) { return Exp(Floats{} + x)[0]; }

std::vector<ExpWeights> ExpWeightsVariants() {
  std::vector<ExpWeights> variants;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) variants.push_back(Avx512Weights);
  if (__builtin_cpu_supports("avx2")) variants.push_back(Avx2Weights);
#endif
  variants.push_back(BaselineWeights);
  return variants;
}

}  // namespace enginery
