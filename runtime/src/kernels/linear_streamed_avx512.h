// SPDX-License-Identifier: Apache-2.0
//
// Products of more rows than a tile of several panels takes, and so few that memory is the limit: 9
// to 16. All of them go through one panel at a time, so that weights are one stream from memory; in
// tiles of 8 rows by 3 panels they are read in bursts, a tenth slower on Zen 5. So many rows of x
// would be more streams than the prefetchers of L1 follow: they are interleaved first, into one.
#ifndef ENGINERY_SRC_KERNELS_LINEAR_STREAMED_AVX512_H_
#define ENGINERY_SRC_KERNELS_LINEAR_STREAMED_AVX512_H_

#include "kernels/kernels.h"
#include "kernels/linear.h"

namespace enginery {
namespace {

constexpr int kStreamedRows = 16;
constexpr int64_t kItemBytes = 4;  // of a row, in a group of k
static_assert(kStreamedRows * kItemBytes == kLineBytes);

// Sixteen rows of sixteen items become sixteen lines of an item of each row.
ENGINERY_INLINE void TransposeItems(__m512i (&rows)[16]) {
  __m512i pairs[16], fours[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      fours[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
      fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
    }
  }
  // fours[4 i + j] holds items j, 4 + j, 8 + j and 12 + j of rows 4 i to 4 i + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i low0 = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0x88);
    const __m512i high0 = _mm512_shuffle_i32x4(fours[j], fours[4 + j], 0xDD);
    const __m512i low1 = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0x88);
    const __m512i high1 = _mm512_shuffle_i32x4(fours[8 + j], fours[12 + j], 0xDD);
    rows[j] = _mm512_shuffle_i32x4(low0, low1, 0x88);
    rows[8 + j] = _mm512_shuffle_i32x4(low0, low1, 0xDD);
    rows[4 + j] = _mm512_shuffle_i32x4(high0, high1, 0x88);
    rows[12 + j] = _mm512_shuffle_i32x4(high0, high1, 0xDD);
  }
}

// x as lines of one group of k of all rows; zero past row_bytes and past the last row.
void Interleave(const LinearArgs& args, int64_t row_bytes, std::byte* to) {
  const auto* x = static_cast<const std::byte*>(args.x);
  for (int64_t at = 0; at < row_bytes; at += kLineBytes) {
    const int64_t left = row_bytes - at;
    const __mmask64 mask = left < kLineBytes ? (uint64_t{1} << left) - 1 : ~uint64_t{0};
    __m512i rows[kStreamedRows];
#pragma GCC unroll 16
    for (int r = 0; r < kStreamedRows; ++r) {
      rows[r] = _mm512_maskz_loadu_epi8(r < args.num_rows ? mask : 0, x + r * args.x_pitch + at);
    }
    TransposeItems(rows);
#pragma GCC unroll 16
    for (int i = 0; i < kStreamedRows; ++i) {
      _mm512_storeu_si512(to + at * kStreamedRows + i * kLineBytes, rows[i]);
    }
  }
}

// The whole of `x`, interleaved, by one panel.
template <class Dot, int kRows>
void InterleavedTile(const LinearArgs& args, const std::byte* x, int64_t panel,
                     OwnPrefetch<1> prefetch, const TileOutput& to) {
  const int64_t num_groups = (args.k + Dot::kGroup - 1) / Dot::kGroup;
  const int64_t panel_bytes = num_groups * Dot::kWeightBytes;
  const std::byte* weight = static_cast<const std::byte*>(args.weight) + panel * panel_bytes;
  PanelFinish<Dot>::Fetch(args, panel * kPanelChannels);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) __builtin_prefetch(to.y + r * to.pitch, 1);
  typename Dot::Accumulator sums[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sums[r] = Dot::Zero();
  for (int64_t g = 0; g < num_groups; ++g) {
    prefetch.FetchGroup(weight, panel_bytes);
    const typename Dot::Weight w = Dot::Load(weight);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      Dot::Accumulate(sums[r], w, Dot::Broadcast(x + r * kItemBytes));
    }
    weight += Dot::kWeightBytes;
    x += kLineBytes;
  }
  const PanelFinish<Dot> finish(args, panel * kPanelChannels);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) finish.Row(sums[r], args, r, to.y + r * to.pitch);
}

// The tile of args.num_rows (kMaxRows + 1 .. kRows) rows.
template <class Dot, int kRows>
ENGINERY_INLINE void InterleavedTileOf(const LinearArgs& args, const std::byte* x, int64_t panel,
                                       OwnPrefetch<1> prefetch, const TileOutput& to) {
  if constexpr (kRows > Dot::kMaxRows + 1) {
    if (args.num_rows < kRows) {
      return InterleavedTileOf<Dot, kRows - 1>(args, x, panel, prefetch, to);
    }
  }
  InterleavedTile<Dot, kRows>(args, x, panel, prefetch, to);
}

// Of any number of rows.
template <class Dot>
void LinearStreamed(const LinearArgs& args) {
  static_assert(Dot::kInputBytes == kItemBytes && Dot::kMaxRows < kStreamedRows);
  if (args.num_rows <= Dot::kMaxRows || args.num_rows > kStreamedRows) return Linear<Dot>(args);
  if (!args.is_prepared) Interleave(args, args.k * (Dot::kInputBytes / Dot::kGroup), args.scratch);
  for (int64_t panel = args.panel_begin; panel < args.panel_end; ++panel) {
    InterleavedTileOf<Dot, kStreamedRows>(args, args.scratch, panel,
                                          OwnPrefetch<1>::For<Dot>(args, panel),
                                          TileOutput::At(args, 0, panel));
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LINEAR_STREAMED_AVX512_H_
