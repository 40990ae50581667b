// SPDX-License-Identifier: Apache-2.0
//
// Dot products of one group of k with AVX2 and FMA. See linear.h for the shape of a Dot.
#ifndef ENGINERY_SRC_KERNELS_DOTS_AVX2_H_
#define ENGINERY_SRC_KERNELS_DOTS_AVX2_H_

#include "kernels/kernels.h"
#include "kernels/lanes_avx2.h"

namespace enginery {
namespace {

ENGINERY_INLINE __m256i Broadcast32(const std::byte* p) {
  int32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return _mm256_set1_epi32(bits);
}
ENGINERY_INLINE __m256 BroadcastF32(const std::byte* p) {
  return _mm256_castsi256_ps(Broadcast32(p));
}
ENGINERY_INLINE __m256i Load256(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
ENGINERY_INLINE F32 MulAddBroadcast(__m256 x, const F32& w, const F32& sum) {
  return {_mm256_fmadd_ps(x, w.low, sum.low), _mm256_fmadd_ps(x, w.high, sum.high)};
}

struct FloatDot {
  static constexpr int kPanels = 1;
  using Accumulator = F32;
  static ENGINERY_INLINE F32 Zero() { return Set1(0.0f); }
  struct Columns {
    Columns(const LinearArgs&, int64_t, int64_t) {}
  };
  static ENGINERY_INLINE F32 Result(const F32& sum, const Columns&, const LinearArgs&, int64_t) {
    return sum;
  }
};

// Register budget of 16: 6 rows take 12 accumulators, 2 weights, 1 input.
struct DotF32F32 : FloatDot {
  static constexpr int kMaxRows = 6;
  static constexpr int kGroup = 1, kWeightBytes = 64, kInputBytes = 4;
  using Weight = F32;
  using Input = const std::byte*;
  static ENGINERY_INLINE F32 Load(const std::byte* p) {
    return enginery::Load(reinterpret_cast<const float*>(p));
  }
  static ENGINERY_INLINE const std::byte* Broadcast(const std::byte* p) { return p; }
  // In assembly because GCC 12 would load all rows' inputs first, and has no registers for them.
  static ENGINERY_INLINE void Accumulate(F32& sum, const F32& w, const std::byte* x) {
    __m256 input;
    __asm__(
        "vbroadcastss %[x], %[input]\n"
        "vfmadd231ps %[input], %[w_low], %[sum_low]\n"
        "vfmadd231ps %[input], %[w_high], %[sum_high]"
        : [sum_low] "+x"(sum.low), [sum_high] "+x"(sum.high), [input] "=&x"(input)
        : [w_low] "x"(w.low), [w_high] "x"(w.high), [x] "m"(*reinterpret_cast<const float*>(x)));
  }
};

struct DotBf16Bf16 : FloatDot {
  static constexpr int kMaxRows = 4;
  static constexpr int kGroup = 2, kWeightBytes = 64, kInputBytes = 4;
  using Weight = Pairs;
  using Input = __m256i;
  static ENGINERY_INLINE Pairs Load(const std::byte* p) { return LoadBf16Pairs(p); }
  static ENGINERY_INLINE __m256i Broadcast(const std::byte* p) { return Broadcast32(p); }
  static ENGINERY_INLINE void Accumulate(F32& sum, const Pairs& w, const __m256i& x) {
    sum = MulAddBroadcast(EvenBf16(x), w.even, sum);
    sum = MulAddBroadcast(OddBf16(x), w.odd, sum);
  }
};

// FP8 E4M3 in pairs of k: 16 channels in 32 bytes. Its values are exact in bf16, and so is x.
struct DotBf16E4M3 : DotBf16Bf16 {
  static constexpr int kWeightBytes = 32;
  static ENGINERY_INLINE Pairs Load(const std::byte* p) { return LoadE4M3Pairs(p); }
};

// The i8 at byte j of each lane as f32.
template <int j>
ENGINERY_INLINE __m256 ByteToF32(__m256i bytes) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(bytes, 24 - 8 * j), 24));
}

// Weight-only i8: weights become f32 in registers.
struct DotXI8 : FloatDot {
  static constexpr int kMaxRows = 3;
  static constexpr int kGroup = 4, kWeightBytes = 64;
  struct Weight {
    F32 k[4];
  };
  using Input = const std::byte*;
  template <int j>
  static ENGINERY_INLINE F32 Column(__m256i low, __m256i high) {
    return {ByteToF32<j>(low), ByteToF32<j>(high)};
  }
  static ENGINERY_INLINE Weight Load(const std::byte* p) {
    const __m256i low = Load256(p);
    const __m256i high = Load256(p + 32);
    return {
        {Column<0>(low, high), Column<1>(low, high), Column<2>(low, high), Column<3>(low, high)}};
  }
  static ENGINERY_INLINE const std::byte* Broadcast(const std::byte* p) { return p; }
};
struct DotF32I8 : DotXI8 {
  static constexpr int kInputBytes = 16;
  static ENGINERY_INLINE void Accumulate(F32& sum, const Weight& w, const std::byte* x) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sum = MulAddBroadcast(BroadcastF32(x + 4 * j), w.k[j], sum);
  }
};
struct DotBf16I8 : DotXI8 {
  static constexpr int kInputBytes = 8;
  static ENGINERY_INLINE void Accumulate(F32& sum, const Weight& w, const std::byte* x) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256i pair = Broadcast32(x + 4 * j);
      sum = MulAddBroadcast(EvenBf16(pair), w.k[2 * j], sum);
      sum = MulAddBroadcast(OddBf16(pair), w.k[2 * j + 1], sum);
    }
  }
};

// Exact sums of signed products, 8 channels in a register: nothing to correct.
struct ExactDot {
  struct Halves {
    __m256i low, high;
  };
  using Accumulator = Halves;
  using Weight = Halves;
  using Input = __m256i;
  static ENGINERY_INLINE Halves Zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static ENGINERY_INLINE Halves Load(const std::byte* p) { return {Load256(p), Load256(p + 32)}; }
  struct Columns {
    Columns(const LinearArgs&, int64_t, int64_t) {}
  };
  static ENGINERY_INLINE F32 Result(const Halves& sum, const Columns&, const LinearArgs& args,
                                    int64_t row) {
    const F32 exact = {_mm256_cvtepi32_ps(sum.low), _mm256_cvtepi32_ps(sum.high)};
    return Mul(exact, Set1(args.x_scale[row]));
  }
};

// vpmaddubsw multiplies unsigned by signed and saturates its i16 sums: magnitudes of inputs, up to
// 128, by weights with the signs of the inputs stay within 2 * 128 * 127, for no weight is -128.
// Inputs become signed again.
// vpmaddwd with ones adds the pairs.
struct DotI8I8 : ExactDot {
  static constexpr int kMaxRows = 4, kPanels = 1;
  static constexpr int kGroup = 4, kWeightBytes = 64, kInputBytes = 4;
  static ENGINERY_INLINE __m256i Broadcast(const std::byte* p) {
    static_assert(kActivationZeroPoint == 128);
    return _mm256_xor_si256(Broadcast32(p), _mm256_set1_epi8(-128));
  }
  static ENGINERY_INLINE __m256i Products(__m256i w, __m256i x) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  static ENGINERY_INLINE void Accumulate(Halves& sum, const Halves& w, const __m256i& x) {
    sum.low = _mm256_add_epi32(sum.low, Products(w.low, x));
    sum.high = _mm256_add_epi32(sum.high, Products(w.high, x));
  }
};

// Register tiles of attention: rows by vectors of 16 tokens, rows by vectors of 16 dimensions.
constexpr int kScoreRows = 6, kScoreVectors = 1;
constexpr int kValueRows = 6, kValueVectors = 1;
constexpr int64_t kAttentionRows = 24;

constexpr int64_t FetchAheadAlone(int64_t) { return 4096; }  // bytes of one stream of weights

}  // namespace
}  // namespace enginery

#include "kernels/operand_bf16_as_f32.h"

#endif  // ENGINERY_SRC_KERNELS_DOTS_AVX2_H_
