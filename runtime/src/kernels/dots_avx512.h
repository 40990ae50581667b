// SPDX-License-Identifier: Apache-2.0
//
// Dot products of one group of k with AVX-512 VNNI and BF16. See linear.h for the shape of a Dot.
//
// Register budget of 32: a tile of 8 rows and 3 panels takes 24 accumulators, 3 weights and 1
// broadcast input. 6 rows and 4 panels would too, but read a third more weights for each product,
// which at k = 896 come from L2: four rows at a time ran at 75 % of the peak on Zen 5, eight at 92.
#ifndef ENGINERY_SRC_KERNELS_DOTS_AVX512_H_
#define ENGINERY_SRC_KERNELS_DOTS_AVX512_H_

#include "kernels/kernels.h"
#include "kernels/lanes_avx512.h"

namespace enginery {
namespace {

ENGINERY_INLINE __m512i Broadcast32(const std::byte* p) {
  int32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return _mm512_set1_epi32(bits);
}

struct FloatDot {
  static constexpr int kMaxRows = 8;
  static constexpr int kPanels = 3;
  using Accumulator = __m512;
  static ENGINERY_INLINE __m512 Zero() { return _mm512_setzero_ps(); }
  struct Columns {
    Columns(const LinearArgs&, int64_t, int64_t) {}
  };
  static ENGINERY_INLINE __m512 Result(const __m512& sum, const Columns&, const LinearArgs&,
                                       int64_t) {
    return sum;
  }
};

struct DotF32F32 : FloatDot {
  static constexpr int kGroup = 1, kWeightBytes = 64, kInputBytes = 4;
  using Weight = __m512;
  using Input = __m512;
  static ENGINERY_INLINE __m512 Load(const std::byte* p) { return _mm512_loadu_ps(p); }
  static ENGINERY_INLINE __m512 Broadcast(const std::byte* p) {
    return _mm512_castsi512_ps(Broadcast32(p));
  }
  static ENGINERY_INLINE void Accumulate(__m512& sum, const __m512& w, const __m512& x) {
    sum = _mm512_fmadd_ps(x, w, sum);
  }
};

struct DotBf16Bf16 : FloatDot {
  static constexpr int kGroup = 2, kWeightBytes = 64, kInputBytes = 4;
  using Weight = __m512bh;
  using Input = __m512bh;
  static ENGINERY_INLINE __m512bh Load(const std::byte* p) {
    return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
  }
  static ENGINERY_INLINE __m512bh Broadcast(const std::byte* p) {
    return reinterpret_cast<__m512bh>(Broadcast32(p));
  }
  static ENGINERY_INLINE void Accumulate(__m512& sum, const __m512bh& w, const __m512bh& x) {
    sum = _mm512_dpbf16_ps(sum, x, w);
  }
};

// FP8 E4M3 in pairs of k: 16 channels in 32 bytes. Its values are exact in bf16, and so is x.
struct DotBf16E4M3 : DotBf16Bf16 {
  static constexpr int kWeightBytes = 32;
  static ENGINERY_INLINE __m512bh Load(const std::byte* p) {
    return reinterpret_cast<__m512bh>(Bf16Pairs(LoadE4M3Pairs(p)));
  }
};

// The i8 at byte j of each lane as f32.
template <int j>
ENGINERY_INLINE __m512 ByteToF32(__m512i bytes) {
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(bytes, 24 - 8 * j), 24));
}

// Weight-only i8 under f32 inputs: weights become f32 in registers. Four converted vectors per
// panel are live at once, hence two panels.
struct DotF32I8 : FloatDot {
  static constexpr int kMaxRows = 6, kPanels = 2;
  static constexpr int kGroup = 4, kWeightBytes = 64, kInputBytes = 16;
  struct Weight {
    __m512 k[4];
  };
  using Input = const std::byte*;
  static ENGINERY_INLINE Weight Load(const std::byte* p) {
    const __m512i bytes = _mm512_loadu_si512(p);
    return {{ByteToF32<0>(bytes), ByteToF32<1>(bytes), ByteToF32<2>(bytes), ByteToF32<3>(bytes)}};
  }
  static ENGINERY_INLINE const std::byte* Broadcast(const std::byte* p) { return p; }
  static ENGINERY_INLINE void Accumulate(__m512& sum, const Weight& w, const std::byte* x) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      sum = _mm512_fmadd_ps(_mm512_castsi512_ps(Broadcast32(x + 4 * j)), w.k[j], sum);
    }
  }
};

// Weight-only i8 under bf16 inputs: bf16 holds every i8 exactly, so weights become bf16 pairs and
// the bf16 dot product does the rest.
struct DotBf16I8 : FloatDot {
  static constexpr int kMaxRows = 6, kPanels = 2;
  static constexpr int kGroup = 4, kWeightBytes = 64, kInputBytes = 8;
  struct Weight {
    __m512bh k[2];
  };
  using Input = const std::byte*;
  // f32 of small integers have zeros in their low halves: taking the high half converts exactly.
  static ENGINERY_INLINE __m512bh Pair(__m512 even, __m512 odd) {
    const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(even), 16);
    return reinterpret_cast<__m512bh>(_mm512_or_si512(low, _mm512_castps_si512(odd)));
  }
  static ENGINERY_INLINE Weight Load(const std::byte* p) {
    const __m512i bytes = _mm512_loadu_si512(p);
    return {{Pair(ByteToF32<0>(bytes), ByteToF32<1>(bytes)),
             Pair(ByteToF32<2>(bytes), ByteToF32<3>(bytes))}};
  }
  static ENGINERY_INLINE const std::byte* Broadcast(const std::byte* p) { return p; }
  static ENGINERY_INLINE void Accumulate(__m512& sum, const Weight& w, const std::byte* x) {
    sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(Broadcast32(x)), w.k[0]);
    sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(Broadcast32(x + 4)), w.k[1]);
  }
};

struct DotI8I8 {
  static constexpr int kMaxRows = 8, kPanels = 3;
  static constexpr int kGroup = 4, kWeightBytes = 64, kInputBytes = 4;
  using Accumulator = __m512i;
  using Weight = __m512i;
  using Input = __m512i;
  static ENGINERY_INLINE __m512i Zero() { return _mm512_setzero_si512(); }
  static ENGINERY_INLINE __m512i Load(const std::byte* p) { return _mm512_loadu_si512(p); }
  static ENGINERY_INLINE __m512i Broadcast(const std::byte* p) { return Broadcast32(p); }
  static ENGINERY_INLINE void Accumulate(__m512i& sum, const __m512i& w, const __m512i& x) {
    // Unsigned by signed, four products into each i32, no saturation. In assembly because GCC 12
    // takes the intrinsic's result for a new register: it copies and spills the accumulators of a
    // large tile, at half the speed.
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  }
  struct Columns {
    __m512i shift;  // what the activations' zero point adds to a sum
    ENGINERY_INLINE Columns(const LinearArgs& args, int64_t channel, int64_t count) {
      static_assert(kActivationZeroPoint == 128);
      const auto sums = _mm512_maskz_loadu_epi32(FirstLanes(count), args.column_sums + channel);
      shift = _mm512_slli_epi32(sums, 7);
    }
  };
  static ENGINERY_INLINE __m512 Result(const __m512i& sum, const Columns& columns,
                                       const LinearArgs& args, int64_t row) {
    const __m512i exact = _mm512_sub_epi32(sum, columns.shift);
    return _mm512_mul_ps(_mm512_cvtepi32_ps(exact), _mm512_set1_ps(args.x_scale[row]));
  }
};

// Operands of attention over all caches but f32.
struct OperandBf16 : DotBf16Bf16 {
  using Element = uint16_t;
  static ENGINERY_INLINE void StoreRow(uint16_t* p, int64_t n, F32 a) { StoreBf16First(p, n, a); }
  // Sixteen pairs of row `row` of [pair rows][columns][2].
  static ENGINERY_INLINE void StorePairs(uint16_t* to, int64_t row, int64_t column, int64_t columns,
                                         const Pairs& pairs) {
    StoreBf16Pairs(reinterpret_cast<std::byte*>(to + 2 * (row * columns + column)), pairs);
  }
};
// Register tiles of attention: rows by vectors of 16 tokens, rows by vectors of 16 dimensions.
constexpr int kScoreRows = 8, kScoreVectors = 2;
constexpr int kValueRows = 8, kValueVectors = 2;
constexpr int64_t kAttentionRows = 16;  // whose scores and probabilities stay in L1

// How far ahead one stream of weights is fetched, in bytes: on Zen 5 eight rows read 61 GB/s at 4
// KiB, 70 at 8 and 73 at 16, where one row reads 6 % less than at 8. AVX2 kernels are 4 % slower
// at 8.
constexpr int64_t FetchAheadAlone(int64_t num_rows) { return num_rows > 4 ? 16384 : 8192; }

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_DOTS_AVX512_H_
