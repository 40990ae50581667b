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
  using Input = __m256;
  static ENGINERY_INLINE F32 Load(const std::byte* p) {
    return enginery::Load(reinterpret_cast<const float*>(p));
  }
  static ENGINERY_INLINE __m256 Broadcast(const std::byte* p) { return BroadcastF32(p); }
  static ENGINERY_INLINE void Accumulate(F32& sum, const F32& w, const __m256& x) {
    sum = MulAddBroadcast(x, w, sum);
  }
};

ENGINERY_INLINE __m256 EvenBf16(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}
ENGINERY_INLINE __m256 OddBf16(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-0x10000)));
}

struct DotBf16Bf16 : FloatDot {
  static constexpr int kMaxRows = 4;
  static constexpr int kGroup = 2, kWeightBytes = 64, kInputBytes = 4;
  struct Weight {
    F32 even, odd;
  };
  using Input = __m256i;
  static ENGINERY_INLINE Weight Load(const std::byte* p) {
    const __m256i low = Load256(p);
    const __m256i high = Load256(p + 32);
    return {{EvenBf16(low), EvenBf16(high)}, {OddBf16(low), OddBf16(high)}};
  }
  static ENGINERY_INLINE __m256i Broadcast(const std::byte* p) { return Broadcast32(p); }
  static ENGINERY_INLINE void Accumulate(F32& sum, const Weight& w, const __m256i& x) {
    sum = MulAddBroadcast(EvenBf16(x), w.even, sum);
    sum = MulAddBroadcast(OddBf16(x), w.odd, sum);
  }
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

// vpmaddubsw would saturate its i16 sums, so both sides are widened to i16 and vpmaddwd adds exact
// pairs in i32. An accumulator holds two partial sums per channel, added at the end: 4 registers of
// 4 channels each.
struct DotI8I8 {
  static constexpr int kMaxRows = 2, kPanels = 1;
  static constexpr int kGroup = 4, kWeightBytes = 64, kInputBytes = 4;
  struct Quarters {
    __m256i q[4];
  };
  using Accumulator = Quarters;
  using Weight = Quarters;
  using Input = __m256i;
  static ENGINERY_INLINE Quarters Zero() {
    const __m256i zero = _mm256_setzero_si256();
    return {{zero, zero, zero, zero}};
  }
  static ENGINERY_INLINE __m256i LoadQuarter(const std::byte* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static ENGINERY_INLINE Quarters Load(const std::byte* p) {
    return {{LoadQuarter(p), LoadQuarter(p + 16), LoadQuarter(p + 32), LoadQuarter(p + 48)}};
  }
  static ENGINERY_INLINE __m256i Broadcast(const std::byte* p) {
    int32_t bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return _mm256_cvtepu8_epi16(_mm_set1_epi32(bits));
  }
  static ENGINERY_INLINE void Accumulate(Quarters& sum, const Quarters& w, const __m256i& x) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      sum.q[j] = _mm256_add_epi32(sum.q[j], _mm256_madd_epi16(x, w.q[j]));
    }
  }
  // Eight channels from two quarters of pairs.
  static ENGINERY_INLINE __m256i AddPairs(__m256i a, __m256i b) {
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xD8);
  }
  struct Columns {
    __m256i low, high;  // what the activations' zero point adds to a sum
    ENGINERY_INLINE Columns(const LinearArgs& args, int64_t channel, int64_t count)
        : low(Shift(args.column_sums + channel, LanesBelow(count, 0))),
          high(Shift(args.column_sums + channel + 8, LanesBelow(count, 8))) {}
    static ENGINERY_INLINE __m256i Shift(const int32_t* column_sums, __m256i mask) {
      static_assert(kActivationZeroPoint == 128);
      return _mm256_slli_epi32(_mm256_maskload_epi32(column_sums, mask), 7);
    }
  };
  static ENGINERY_INLINE __m256 Exact(__m256i sum, __m256i shift) {
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, shift));
  }
  static ENGINERY_INLINE F32 Result(const Quarters& sum, const Columns& columns,
                                    const LinearArgs& args, int64_t row) {
    const F32 exact = {Exact(AddPairs(sum.q[0], sum.q[1]), columns.low),
                       Exact(AddPairs(sum.q[2], sum.q[3]), columns.high)};
    return Mul(exact, Set1(args.x_scale[row]));
  }
};

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_DOTS_AVX2_H_
