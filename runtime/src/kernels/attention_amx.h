// SPDX-License-Identifier: Apache-2.0
//
// The products of attention with AMX tiles of bf16, which load queries, probabilities, and the K
// and V of a bf16 cache, where they lie.
#ifndef ENGINERY_SRC_KERNELS_ATTENTION_AMX_H_
#define ENGINERY_SRC_KERNELS_ATTENTION_AMX_H_

#include "kernels/attention.h"
#include "kernels/tiles_amx.h"

namespace enginery {
namespace {

// C[16 rows][16 kVectors columns] (+)= A B over steps of 32 k. C tiles are 0..3.
template <bool kAccumulate, int kVectors>
ENGINERY_INLINE void AttentionTiles(const uint16_t* a, int64_t a_pitch, const std::byte* b,
                                    int64_t b_pitch, int64_t steps, float* c, int64_t c_pitch) {
  auto* sums = reinterpret_cast<std::byte*>(c);
  if constexpr (kAccumulate) {
    LoadSums<kVectors>(sums, kTileRowBytes, c_pitch * 4);
  } else {
    ZeroSums<kVectors>();
  }
  for (int64_t s = 0; s < steps; ++s) {
    TileLoad<kTileA>(a + 32 * s, a_pitch * 2);
    const std::byte* at = b + kTileRows * s * b_pitch;
    TileLoad<kTileB>(at, b_pitch);
    TileDotBf16<0, kTileA, kTileB>();
    if constexpr (kVectors > 1) {
      TileLoad<kTileB + 1>(at + 64, b_pitch);
      TileDotBf16<1, kTileA, kTileB + 1>();
    }
    if constexpr (kVectors > 2) {
      TileLoad<kTileB>(at + 128, b_pitch);
      TileDotBf16<2, kTileA, kTileB>();
    }
    if constexpr (kVectors > 3) {
      TileLoad<kTileB + 1>(at + 192, b_pitch);
      TileDotBf16<3, kTileA, kTileB + 1>();
    }
  }
  StoreSums<kVectors>(sums, kTileRowBytes, c_pitch * 4);
}

// All columns (a multiple of 16) of B, whose rows of pairs are columns * 4 bytes apart.
template <bool kAccumulate>
void AttentionTileRows(const uint16_t* a, int64_t a_pitch, const std::byte* b, int64_t columns,
                       int64_t steps, float* c, int64_t c_pitch) {
  const int64_t b_pitch = columns * 4;
  int64_t at = 0;
  for (; at + 64 <= columns; at += 64) {
    AttentionTiles<kAccumulate, 4>(a, a_pitch, b + at * 4, b_pitch, steps, c + at, c_pitch);
  }
  for (; at + 32 <= columns; at += 32) {
    AttentionTiles<kAccumulate, 2>(a, a_pitch, b + at * 4, b_pitch, steps, c + at, c_pitch);
  }
  for (; at < columns; at += 16) {
    AttentionTiles<kAccumulate, 1>(a, a_pitch, b + at * 4, b_pitch, steps, c + at, c_pitch);
  }
}

template <class CacheType>
struct TileProducts {
  using Cache = CacheType;
  using Operand = typename Cache::Operand;
  static constexpr int64_t kValueTokens = kKeyPadding;
  static constexpr int64_t kRowsAtOnce = int64_t{1} << 32;  // all
  // Rows come in sixteens; those beside [row_begin, row_end) are computed and count for nothing.
  static void Scores(const AttentionArgs& args, const AttentionRows<Operand>& rows,
                     int64_t row_begin, int64_t row_end, const KvBlocks& blocks) {
    for (int64_t b = 0; b < blocks.count; ++b) {
      const KvBlock& block = blocks.first[b];
      for (int64_t r = row_begin / kTileRows * kTileRows; r < row_end; r += kTileRows) {
        AttentionTileRows<false>(rows.q + r * rows.q_pitch, rows.q_pitch, block.data,
                                 args.tokens_per_block, rows.q_pitch / 32,
                                 rows.scores_of(r) + block.column, rows.tile_tokens);
      }
    }
  }
  static void Values(const AttentionArgs&, const AttentionRows<Operand>& rows, int64_t row_begin,
                     int64_t row_end, const KvBlocks& blocks) {
    const int64_t begin = row_begin / kTileRows * kTileRows;
    // What is left of earlier tiles in the rows beside must not be added again.
    const auto clear = [&](int64_t row) {
      __builtin_memset(rows.p_of(row), 0, static_cast<size_t>(rows.tile_tokens) * sizeof(uint16_t));
    };
    for (int64_t r = begin; r < row_begin; ++r) clear(r);
    for (int64_t r = row_end; r % kTileRows != 0; ++r) clear(r);
    for (int64_t b = 0; b < blocks.count; ++b) {
      const KvBlock& block = blocks.first[b];
      const int64_t steps = (block.groups * Operand::kGroup + kKeyPadding - 1) / kKeyPadding;
      for (int64_t r = begin; r < row_end; r += kTileRows) {
        AttentionTileRows<true>(rows.p_of(r) + block.column, rows.p_pitch, block.data,
                                rows.padded_dim, steps, rows.sums_of(r), rows.padded_dim);
      }
    }
  }
};

template <class Cache>
void AttentionAmx(const AttentionArgs& args) {
  const TileScope tiles(kTileRows);
  Attention<TileProducts<Cache>>(args);
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_ATTENTION_AMX_H_
