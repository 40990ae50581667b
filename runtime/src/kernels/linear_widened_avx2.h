// SPDX-License-Identifier: Apache-2.0
//
// Products of many rows with AVX2, which multiplies neither bf16 nor i8: both factors are widened
// to f32 or i16 before they are multiplied, block by block of k. The widened block of a panel and a
// tile's rows of x stay in L1 while they are multiplied, the block of x for some panels in L2, and
// sums wait in the scratch from block to block.
//
// Every output walks K in the order of the direct kernels (linear.h), and storing a sum and loading
// it changes nothing: bits are the same. i16 sums are exact in any order.
#ifndef ENGINERY_SRC_KERNELS_LINEAR_WIDENED_AVX2_H_
#define ENGINERY_SRC_KERNELS_LINEAR_WIDENED_AVX2_H_

#include "kernels/dots_avx2.h"
#include "kernels/kernels.h"
#include "kernels/linear.h"
#include "kernels/linear_unpacked.h"

namespace enginery {
namespace {

// Pairs of i16: 16 channels by 2 k in 64 bytes, as n16k2. 6 rows take 12 accumulators.
struct DotI16I16 : ExactDot {
  static constexpr int kMaxRows = 6, kPanels = 1;
  static constexpr int kGroup = 2, kWeightBytes = 64, kInputBytes = 4;
  using Input = const std::byte*;
  static ENGINERY_INLINE const std::byte* Broadcast(const std::byte* p) { return p; }
  static ENGINERY_INLINE void Accumulate(Halves& sum, const Halves& w, const std::byte* x) {
    __m256i low, high;
    __asm__(
        "vpbroadcastd %[x], %[high]\n"
        "vpmaddwd %[high], %[w_low], %[low]\n"
        "vpmaddwd %[high], %[w_high], %[high]\n"
        "vpaddd %[low], %[sum_low], %[sum_low]\n"
        "vpaddd %[high], %[sum_high], %[sum_high]"
        : [sum_low] "+x"(sum.low), [sum_high] "+x"(sum.high), [low] "=&x"(low), [high] "=&x"(high)
        : [w_low] "x"(w.low), [w_high] "x"(w.high), [x] "m"(*reinterpret_cast<const int32_t*>(x)));
  }
};

ENGINERY_INLINE void Store256(std::byte* p, __m256i a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a);
}
ENGINERY_INLINE void Store512(std::byte* p, const F32& a) { Store(reinterpret_cast<float*>(p), a); }

// The even k of a pair, then the odd one.
ENGINERY_INLINE void StoreTwo(std::byte* p, const Pairs& pairs) {
  Store512(p, pairs.even);
  Store512(p + 64, pairs.odd);
}

// Calls piece(from, to) for whole pieces of kPiece elements of a row of k, the last one from a copy
// that is zero past the row's end, where memory may be anything.
template <int64_t kPiece, int64_t kFromBytes, int64_t kToBytes, class Piece>
ENGINERY_INLINE void WidenRow(const std::byte* x, int64_t k, std::byte* to, Piece piece) {
  int64_t i = 0;
  for (; i + kPiece <= k; i += kPiece) piece(x + i * kFromBytes, to + i * kToBytes);
  if (i == k) return;
  std::byte last[kPiece * kFromBytes] = {};
  __builtin_memcpy(last, x + i * kFromBytes, static_cast<size_t>((k - i) * kFromBytes));
  piece(last, to + i * kToBytes);
}

// Weights of a panel that come in steps of kStep k in kStepBytes.
template <int64_t kStep, int64_t kStepBytes = kLineBytes>
struct WidenWeights {
  static constexpr int64_t kWeightStep = kStep, kWeightBytes = kStepBytes;
  // Those of a panel from k `begin` on, a multiple of kStep.
  static ENGINERY_INLINE const std::byte* Piece(const LinearArgs& args, int64_t panel,
                                                int64_t begin) {
    return static_cast<const std::byte*>(args.weight) +
           PanelBytes(args.k, kStep, kStepBytes) * panel + begin / kStep * kStepBytes;
  }
};

// How the factors of a product become operands of Dot: `Weights` of the k [begin, end) of a panel,
// begin a multiple of 256; `Row` of k elements of a row of x, zeros past them up to a multiple
// of 8.
struct RowF32 {
  using Dot = DotF32F32;
  static constexpr int64_t kRowBytes = 4;  // of an element
  static ENGINERY_INLINE void Row(const std::byte* x, int64_t k, std::byte* to) {
    WidenRow<8, 4, 4>(x, k, to, [](const std::byte* from, std::byte* at) ENGINERY_LAMBDA_INLINE {
      Store256(at, Load256(from));
    });
  }
};
struct WidenF32F32 : RowF32, WidenWeights<1> {
  static ENGINERY_INLINE void Weights(const LinearArgs& args, int64_t panel, int64_t begin,
                                      int64_t end, std::byte* to) {
    const std::byte* from = Piece(args, panel, begin);
    __builtin_memcpy(to, from, static_cast<size_t>((end - begin) * kLineBytes));
  }
};

struct RowBf16 {
  using Dot = DotF32F32;
  static constexpr int64_t kRowBytes = 2;
  static ENGINERY_INLINE void Row(const std::byte* x, int64_t k, std::byte* to) {
    WidenRow<16, 2, 4>(x, k, to, [](const std::byte* from, std::byte* at) ENGINERY_LAMBDA_INLINE {
      Store512(at, LoadBf16(reinterpret_cast<const uint16_t*>(from)));
    });
  }
};
// Pairs of k, of values that f32 holds exactly.
template <int64_t kPairsBytes, Pairs (*kLoadPairs)(const std::byte*)>
struct WidenBf16ByPairs : RowBf16, WidenWeights<2, kPairsBytes> {
  static ENGINERY_INLINE void Weights(const LinearArgs& args, int64_t panel, int64_t begin,
                                      int64_t end, std::byte* to) {
    const std::byte* from = WidenWeights<2, kPairsBytes>::Piece(args, panel, begin);
    for (int64_t k = begin; k < end; k += 2, from += kPairsBytes, to += 2 * kLineBytes) {
      StoreTwo(to, kLoadPairs(from));
    }
  }
};
using WidenBf16Bf16 = WidenBf16ByPairs<64, LoadBf16Pairs>;
using WidenBf16E4M3 = WidenBf16ByPairs<32, LoadE4M3Pairs>;

// Weights of i4, for which begin is also a multiple of the largest group.
struct WidenI4 : WidenWeights<8> {
  // Calls body(group) for each group of the k [begin, end) of a panel, counted from the first
  // panel's, and its k [first, last).
  template <class Body>
  static ENGINERY_INLINE void ForEachGroup(const LinearArgs& args, int64_t panel, int64_t begin,
                                           int64_t end, Body body) {
    int64_t group = panel * args.num_groups() + begin / args.group;
    for (int64_t first = begin; first < end; first += args.group, ++group) {
      body(group, first, first + args.group < end ? first + args.group : end);
    }
  }
};

// The codes of k = j and j + 1 of 16 channels, times their scales, rounded.
template <class Rounded, int j>
ENGINERY_INLINE Pairs I4Pairs(const std::byte* weight, const F32& scales) {
  return {Rounded::Round(Mul(LoadI4<j>(weight), scales)),
          Rounded::Round(Mul(LoadI4<j + 1>(weight), scales))};
}

template <class Rounded>
struct WidenBf16I4 : RowBf16, WidenI4 {
  static ENGINERY_INLINE void Weights(const LinearArgs& args, int64_t panel, int64_t begin,
                                      int64_t end, std::byte* to) {
    const std::byte* from = Piece(args, panel, begin);
    ForEachGroup(args, panel, begin, end,
                 [&](int64_t group, int64_t first, int64_t last) ENGINERY_LAMBDA_INLINE {
                   const F32 scales = Load(args.block_scales + group * kPanelChannels);
                   for (int64_t k = first; k < last; k += 8, from += 64, to += 8 * 64) {
                     StoreTwo(to, I4Pairs<Rounded, 0>(from, scales));
                     StoreTwo(to + 2 * 64, I4Pairs<Rounded, 2>(from, scales));
                     StoreTwo(to + 4 * 64, I4Pairs<Rounded, 4>(from, scales));
                     StoreTwo(to + 6 * 64, I4Pairs<Rounded, 6>(from, scales));
                   }
                 });
  }
};

template <class Rows>
struct WidenXI8 : Rows, WidenWeights<4> {
  static ENGINERY_INLINE void Weights(const LinearArgs& args, int64_t panel, int64_t begin,
                                      int64_t end, std::byte* to) {
    const std::byte* from = Piece(args, panel, begin);
    for (int64_t k = 0; k < end - begin; k += 4) {
      const DotXI8::Weight four = DotXI8::Load(from + k * 16);
      for (int j = 0; j < 4; ++j) Store512(to + (k + j) * 64, four.k[j]);
    }
  }
};

// Bytes 0 and 2 of each 32 bits as a pair of i16, and bytes 1 and 3: which k stand together does
// not matter as long as x and W agree.
ENGINERY_INLINE __m256i EvenBytes(__m256i bytes) {
  return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
}
ENGINERY_INLINE __m256i OddBytes(__m256i bytes) { return _mm256_srai_epi16(bytes, 8); }

struct RowI8 {
  using Dot = DotI16I16;
  static constexpr int64_t kRowBytes = 1;
  static ENGINERY_INLINE void Row(const std::byte* x, int64_t k, std::byte* to) {
    WidenRow<16, 1, 2>(x, k, to, [](const std::byte* from, std::byte* at) ENGINERY_LAMBDA_INLINE {
      static_assert(kActivationZeroPoint == 128);
      const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
      const __m128i bytes = _mm_xor_si128(codes, _mm_set1_epi8(-128));
      const __m128i even = _mm_srai_epi16(_mm_slli_epi16(bytes, 8), 8);
      const __m128i odd = _mm_srai_epi16(bytes, 8);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm_unpacklo_epi32(even, odd));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(at + 16), _mm_unpackhi_epi32(even, odd));
    });
  }
  // 64 bytes of a panel in n16k4.
  static ENGINERY_INLINE void Four(const std::byte* from, std::byte* to) {
    const __m256i low = Load256(from);
    const __m256i high = Load256(from + 32);
    Store256(to, EvenBytes(low));
    Store256(to + 32, EvenBytes(high));
    Store256(to + 64, OddBytes(low));
    Store256(to + 96, OddBytes(high));
  }
};
struct WidenI8I8 : RowI8, WidenWeights<4> {
  static ENGINERY_INLINE void Weights(const LinearArgs& args, int64_t panel, int64_t begin,
                                      int64_t end, std::byte* to) {
    const std::byte* from = Piece(args, panel, begin);
    for (int64_t k = 0; k < end - begin; k += 4) Four(from + k * 16, to + k * 32);
  }
};
struct WidenI8I4 : RowI8, WidenI4 {
  static ENGINERY_INLINE void Weights(const LinearArgs& args, int64_t panel, int64_t begin,
                                      int64_t end, std::byte* to) {
    const std::byte* from = Piece(args, panel, begin);
    ForEachGroup(args, panel, begin, end,
                 [&](int64_t group, int64_t first, int64_t last) ENGINERY_LAMBDA_INLINE {
                   const GroupScales scale =
                       LoadGroupScales(args.group_scales + group * kPanelChannels);
                   for (int64_t k = first; k < last; k += 8, from += 64, to += 8 * 32) {
                     Eight(from, scale.low, to);
                     Eight(from + 32, scale.high, to + 32);
                   }
                 });
  }
  // 8 channels by 8 k, times their multipliers: four groups of two k, 64 bytes apart.
  static ENGINERY_INLINE void Eight(const std::byte* from, __m256i scale, std::byte* to) {
    const __m256i codes = Load256(from);
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i zero = _mm256_set1_epi8(kI4ZeroPoint);
    const __m256i first = _mm256_sub_epi8(_mm256_and_si256(codes, mask), zero);
    const __m256i second =
        _mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi16(codes, 4), mask), zero);
    Store256(to, _mm256_mullo_epi16(EvenBytes(first), scale));
    Store256(to + 64, _mm256_mullo_epi16(OddBytes(first), scale));
    Store256(to + 128, _mm256_mullo_epi16(EvenBytes(second), scale));
    Store256(to + 192, _mm256_mullo_epi16(OddBytes(second), scale));
  }
};

// kRows rows by one panel over `groups` groups of k, beginning with what `sums` hold.
template <class Dot, int kRows>
ENGINERY_INLINE void WidenedTile(const std::byte* x, int64_t x_pitch, const std::byte* weights,
                                 int64_t groups, typename Dot::Accumulator* sums) {
  typename Dot::Accumulator tile[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) tile[r] = sums[r];
  for (int64_t g = 0; g < groups; ++g) {
    const typename Dot::Weight w = Dot::Load(weights + g * Dot::kWeightBytes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      Dot::Accumulate(tile[r], w, Dot::Broadcast(x + r * x_pitch + g * Dot::kInputBytes));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) sums[r] = tile[r];
}

template <class Dot, int kRows>
ENGINERY_INLINE void WidenedTileOf(int64_t num_rows, const std::byte* x, int64_t x_pitch,
                                   const std::byte* weights, int64_t groups,
                                   typename Dot::Accumulator* sums) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) {
      return WidenedTileOf<Dot, kRows - 1>(num_rows, x, x_pitch, weights, groups, sums);
    }
  }
  WidenedTile<Dot, kRows>(x, x_pitch, weights, groups, sums);
}

// The weights of the piece of panels that comes next, fetched into L2 by the tiles of this one.
class NextPiece {
 public:
  ENGINERY_INLINE NextPiece(const std::byte* from, int64_t bytes, int64_t num_tiles)
      : at_(from), end_(from + bytes), lines_per_tile_((bytes / kLineBytes) / num_tiles + 1) {}
  ENGINERY_INLINE void FetchShare() {
    for (int64_t i = 0; i < lines_per_tile_ && at_ < end_; ++i, at_ += kLineBytes) {
      __builtin_prefetch(at_, 0, 2);
    }
  }

 private:
  const std::byte* at_;
  const std::byte* end_;
  int64_t lines_per_tile_;
};

// Rows [row, row + num_rows) by the panels [panel, panel_end), at most kWidenedRows by
// kWidenedPanels.
template <class Widen>
void WidenedBlock(const LinearArgs& args, int64_t row, int64_t num_rows, int64_t panel,
                  int64_t panel_end) {
  using Dot = typename Widen::Dot;
  using Accumulator = typename Dot::Accumulator;
  constexpr int64_t kBlock = kWidenedGroups * Dot::kGroup;
  constexpr int64_t kPitch = kWidenedGroups * Dot::kInputBytes + kLineBytes;
  static_assert(kBlock % kWeightGroups[0] == 0 && sizeof(Accumulator) == kLineBytes);
  std::byte* weights = args.scratch;
  std::byte* x = weights + kWidenedGroups * Dot::kWeightBytes;
  auto* sums = reinterpret_cast<Accumulator*>(x + kWidenedRows * kPitch);

  const int64_t num_tiles = (num_rows + Dot::kMaxRows - 1) / Dot::kMaxRows;
  for (int64_t i = 0; i < (panel_end - panel) * num_rows; ++i) sums[i] = Dot::Zero();
  for (int64_t begin = 0; begin < args.k; begin += kBlock) {
    const int64_t left = args.k - begin;
    const int64_t k = left < kBlock ? left : kBlock;
    for (int64_t r = 0; r < num_rows; ++r) {
      const std::byte* from = static_cast<const std::byte*>(args.x) + (row + r) * args.x_pitch;
      Widen::Row(from + begin * Widen::kRowBytes, k, x + r * kPitch);
    }
    // Weights are padded with zeros to whole steps.
    const int64_t padded_k = (k + Widen::kWeightStep - 1) / Widen::kWeightStep * Widen::kWeightStep;
    for (int64_t p = panel; p < panel_end; ++p) {
      Widen::Weights(args, p, begin, begin + padded_k, weights);
      const bool is_last = p + 1 == panel_end;
      NextPiece next(Widen::Piece(args, is_last ? panel : p + 1, is_last ? begin + kBlock : begin),
                     padded_k * Widen::kWeightBytes / Widen::kWeightStep, num_tiles);
      Accumulator* panel_sums = sums + (p - panel) * num_rows;
      int64_t r = 0;
      for (int64_t t = 0; t < num_tiles; ++t) {
        next.FetchShare();
        const int64_t end = num_rows * (t + 1) / num_tiles;
        WidenedTileOf<Dot, Dot::kMaxRows>(end - r, x + r * kPitch, kPitch, weights,
                                          padded_k / Dot::kGroup, panel_sums + r);
        r = end;
      }
    }
  }
  for (int64_t p = panel; p < panel_end; ++p) {
    const PanelFinish<Dot> finish(args, p * kPanelChannels);
    for (int64_t r = 0; r < num_rows; ++r) {
      finish.Row(sums[(p - panel) * num_rows + r], args, row + r,
                 args.y + (row + r) * args.y_pitch + p * kPanelChannels);
    }
  }
}

// Blocks whose x and sums, a quarter of an L2 of 512 KiB each, stay there while the weights pass.
template <class Widen>
void WidenedLinear(const LinearArgs& args) {
  const int64_t num_blocks = (args.num_rows + kWidenedRows - 1) / kWidenedRows;
  int64_t row = 0;
  for (int64_t b = 0; b < num_blocks; ++b) {
    const int64_t end = args.num_rows * (b + 1) / num_blocks;
    for (int64_t p = args.panel_begin; p < args.panel_end; p += kWidenedPanels) {
      const int64_t panel_end =
          p + kWidenedPanels < args.panel_end ? p + kWidenedPanels : args.panel_end;
      WidenedBlock<Widen>(args, row, end - row, p, panel_end);
    }
    row = end;
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LINEAR_WIDENED_AVX2_H_
