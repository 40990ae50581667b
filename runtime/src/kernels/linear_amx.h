// SPDX-License-Identifier: Apache-2.0
//
// The matrix product over packed panels with AMX tiles. 16 groups of a panel are one tile of
// weights as they lie in memory, 64 bytes of 16 rows of x one tile of inputs, so both are loaded in
// place.
//
// A block is kRowTiles row tiles by kPanels panels, four tiles of sums that walk the whole of K. Its
// sums are finished (scales, bias) while the next block multiplies: a few rows after each step, so
// that vector instructions fill the time in which the tile unit is busy. Finished after the block
// they cost a fifth of a product with K = 896.
//
// With more than 16 rows the last row tile overlaps the one before instead of being shorter: the
// shape of tiles is then one for the whole call. Rows computed twice are stored once.
#ifndef ENGINERY_SRC_KERNELS_LINEAR_AMX_H_
#define ENGINERY_SRC_KERNELS_LINEAR_AMX_H_

#include "kernels/kernels.h"
#include "kernels/linear.h"
#include "kernels/tiles_amx.h"

namespace enginery {
namespace {

// u8 by i8. See DotI8I8 for what becomes of the sums.
struct TileI8I8 : DotI8I8 {
  template <int c, int a, int b>
  static ENGINERY_INLINE void Multiply() {
    TileDotU8I8<c, a, b>();
  }
  static ENGINERY_INLINE __m512i LoadSums(const std::byte* p) { return _mm512_load_si512(p); }
};
struct TileBf16Bf16 : DotBf16Bf16 {
  template <int c, int a, int b>
  static ENGINERY_INLINE void Multiply() {
    TileDotBf16<c, a, b>();
  }
  static ENGINERY_INLINE __m512 LoadSums(const std::byte* p) {
    return _mm512_load_ps(reinterpret_cast<const float*>(p));
  }
};

// Sums of a block that are still to be finished.
template <class Tile>
class Unfinished {
 public:
  explicit Unfinished(const LinearArgs& args) : args_(args) {}

  // Where the next block's sums go: tiles of 16 rows by 16 channels.
  std::byte* sums() { return sums_; }
  // Sums of num_panels panels from `panel` on, for each of them num_row_tiles row tiles. Row tile t
  // begins at row tile_row[t]; of its rows those from first_row + 16 t on are to be stored.
  void Add(int64_t num_panels, int64_t num_row_tiles, int64_t num_rows, int64_t panel,
           const int64_t* tile_row, int64_t first_row) {
    for (int64_t t = 0; t < num_row_tiles; ++t) tile_row_[t] = tile_row[t];
    first_row_ = first_row;
    num_row_tiles_ = num_row_tiles;
    num_rows_ = num_rows;
    panel_ = panel;
    tile_ = 0;
    row_ = 0;
    num_left_ = num_panels * num_row_tiles * num_rows;
  }
  int64_t num_left() const { return num_left_; }
  // Finishes `count` rows of tiles, or what is left.
  ENGINERY_INLINE void Finish(int64_t count) {
    if (count > num_left_) count = num_left_;
    num_left_ -= count;
    while (count > 0) {
      const int64_t piece = count < num_rows_ - row_ ? count : num_rows_ - row_;
      FinishRows(piece);
      count -= piece;
      row_ += piece;
      if (row_ < num_rows_) return;
      row_ = 0;
      ++tile_;
    }
  }

 private:
  // The next `count` rows of the current tile.
  ENGINERY_INLINE void FinishRows(int64_t count) {
    const bool is_second = num_row_tiles_ == 2 && tile_ % 2 == 1;
    const int64_t first = tile_row_[is_second];
    const int64_t channel = (panel_ + (num_row_tiles_ == 2 ? tile_ / 2 : tile_)) * kPanelChannels;
    const std::byte* sums = sums_ + tile_ * kTileBytes;
    const int64_t first_stored = first_row_ + (is_second ? kTileRows : 0);
    const int64_t begin = first + row_ < first_stored ? first_stored - first : row_;
    const PanelFinish<Tile> finish(args_, channel);
    for (int64_t r = begin; r < row_ + count; ++r) {
      finish.Row(first + r, Tile::LoadSums(sums + r * kTileRowBytes));
    }
  }

  const LinearArgs args_;  // a copy: what is stored through y cannot change it
  int64_t tile_row_[2] = {}, first_row_ = 0, num_row_tiles_ = 1, num_rows_ = 1, panel_ = 0;
  int64_t tile_ = 0, row_ = 0, num_left_ = 0;  // the next row, of its tile
  alignas(64) std::byte sums_[4 * kTileBytes];
};

// Steps of 64 bytes of x and what is left of K after them.
struct TileSteps {
  int64_t full, tail_input_bytes, tail_groups, panel_bytes;
};
template <class Tile>
TileSteps StepsOf(const LinearArgs& args) {
  const int64_t element_bytes = Tile::kInputBytes / Tile::kGroup;
  const int64_t groups = (args.k + Tile::kGroup - 1) / Tile::kGroup;
  const int64_t full = args.k * element_bytes / kTileRowBytes;
  return {full, args.k * element_bytes - full * kTileRowBytes, groups - full * kTileRows,
          groups * kTileRowBytes};
}

template <class Tile, int kRowTiles, int kPanels>
void TileBlock(const LinearArgs& args, const TileSteps& steps, int64_t num_tile_rows, int64_t panel,
               const int64_t* tile_row, int64_t first_row, const std::byte* next_weights,
               Unfinished<Tile>& unfinished) {
  static_assert(kRowTiles * kPanels <= kTileA);
  const std::byte* x[kRowTiles];
  for (int t = 0; t < kRowTiles; ++t) {
    x[t] = static_cast<const std::byte*>(args.x) + tile_row[t] * args.x_pitch;
  }
  const int64_t panel_bytes = steps.panel_bytes;
  const std::byte* weight = static_cast<const std::byte*>(args.weight) + panel * panel_bytes;

  TileZero<0>();
  if constexpr (kRowTiles * kPanels > 1) TileZero<1>();
  if constexpr (kRowTiles * kPanels > 2) TileZero<2>();
  if constexpr (kRowTiles * kPanels > 3) TileZero<3>();
  // The tile of sums of row tile t and panel p is p * kRowTiles + t.
  const auto multiply = [&](const std::byte* x0, const std::byte* x1, int64_t x_pitch,
                            const std::byte* w, int64_t w_pitch) ENGINERY_LAMBDA_INLINE {
    TileLoad<kTileA>(x0, x_pitch);
    if constexpr (kRowTiles == 2) {
      TileLoad<kTileA + 1>(x1, x_pitch);
      TileLoad<kTileB>(w, kTileRowBytes);
      Tile::template Multiply<0, kTileA, kTileB>();
      Tile::template Multiply<1, kTileA + 1, kTileB>();
      if constexpr (kPanels == 2) {
        TileLoad<kTileB + 1>(w + w_pitch, kTileRowBytes);
        Tile::template Multiply<2, kTileA, kTileB + 1>();
        Tile::template Multiply<3, kTileA + 1, kTileB + 1>();
      }
    } else {
      TileLoad<kTileB>(w, kTileRowBytes);
      Tile::template Multiply<0, kTileA, kTileB>();
      if constexpr (kPanels > 1) {
        TileLoad<kTileB + 1>(w + w_pitch, kTileRowBytes);
        Tile::template Multiply<1, kTileA, kTileB + 1>();
      }
      if constexpr (kPanels > 2) {
        TileLoad<kTileB>(w + 2 * w_pitch, kTileRowBytes);
        Tile::template Multiply<2, kTileA, kTileB>();
        TileLoad<kTileB + 1>(w + 3 * w_pitch, kTileRowBytes);
        Tile::template Multiply<3, kTileA, kTileB + 1>();
      }
    }
  };
  // So many rows of the block before are finished after each step that none is left at the end. Not
  // after the first steps: its sums are still on their way to memory.
  constexpr int64_t kFirstStep = 3;
  const int64_t finishing_steps = steps.full - kFirstStep;
  const int64_t rows_per_step =
      finishing_steps <= 0 ? 0 : (unfinished.num_left() + finishing_steps - 1) / finishing_steps;
  for (int64_t s = 0; s < steps.full; ++s) {
    multiply(x[0], x[kRowTiles - 1], args.x_pitch, weight, panel_bytes);
    if (next_weights != nullptr) {
#pragma GCC unroll 16
      for (int line = 0; line < kPanels * kTileRows; ++line) {
        __builtin_prefetch(next_weights + line * kTileRowBytes, 0, 2);
      }
      next_weights += kPanels * kTileBytes;
    }
    if (s >= kFirstStep) unfinished.Finish(rows_per_step);
    for (int t = 0; t < kRowTiles; ++t) x[t] += kTileRowBytes;
    weight += kTileBytes;
  }
  unfinished.Finish(unfinished.num_left());
  if (steps.tail_groups > 0) {
    // Inputs and weights past the end are replaced by zeros, for they may be anything.
    alignas(64) std::byte last_x[kRowTiles][kTileBytes] = {};
    alignas(64) std::byte last_weight[kPanels][kTileBytes] = {};
    for (int t = 0; t < kRowTiles; ++t) {
      for (int64_t r = 0; r < num_tile_rows; ++r) {
        __builtin_memcpy(last_x[t] + r * kTileRowBytes, x[t] + r * args.x_pitch,
                         static_cast<size_t>(steps.tail_input_bytes));
      }
    }
    for (int p = 0; p < kPanels; ++p) {
      __builtin_memcpy(last_weight[p], weight + p * panel_bytes,
                       static_cast<size_t>(steps.tail_groups * kTileRowBytes));
    }
    multiply(last_x[0], last_x[kRowTiles - 1], kTileRowBytes, last_weight[0], kTileBytes);
  }
  TileStore<0>(unfinished.sums(), kTileRowBytes);
  if constexpr (kRowTiles * kPanels > 1) TileStore<1>(unfinished.sums() + kTileBytes, kTileRowBytes);
  if constexpr (kRowTiles * kPanels > 2)
    TileStore<2>(unfinished.sums() + 2 * kTileBytes, kTileRowBytes);
  if constexpr (kRowTiles * kPanels > 3)
    TileStore<3>(unfinished.sums() + 3 * kTileBytes, kTileRowBytes);
  unfinished.Add(kPanels, kRowTiles, num_tile_rows, panel, tile_row, first_row);
}

// All rows over kPanels panels, whose weights stay in the cache meanwhile.
template <class Tile, int kPanels>
void TilePanels(const LinearArgs& args, const TileSteps& steps, int64_t panel,
                Unfinished<Tile>& unfinished) {
  // The next panels come in while these are multiplied, each block its share.
  const int64_t tile_rows = args.num_rows < kTileRows ? args.num_rows : kTileRows;
  const std::byte* next = panel + 2 * kPanels > args.panel_end
                              ? nullptr
                              : static_cast<const std::byte*>(args.weight) +
                                    (panel + kPanels) * steps.panel_bytes;
  int64_t row = 0;
  for (; args.num_rows - row > kTileRows; row += 2 * kTileRows) {
    const int64_t second = row + 2 * kTileRows <= args.num_rows ? row + kTileRows
                                                                : args.num_rows - kTileRows;
    const int64_t begin[2] = {row, second};
    if constexpr (kPanels == 2) {
      TileBlock<Tile, 2, 2>(args, steps, tile_rows, panel, begin, row, row == 0 ? next : nullptr,
                            unfinished);
    } else {
      TileBlock<Tile, 2, 1>(args, steps, tile_rows, panel, begin, row, nullptr, unfinished);
    }
  }
  if (row < args.num_rows) {
    const int64_t begin = args.num_rows - tile_rows;
    TileBlock<Tile, 1, kPanels>(args, steps, tile_rows, panel, &begin, row,
                                row == 0 ? next : nullptr, unfinished);
  }
}

template <class Tile>
void LinearTiles(const LinearArgs& args) {
  const TileScope tiles(args.num_rows < kTileRows ? args.num_rows : kTileRows);
  const TileSteps steps = StepsOf<Tile>(args);
  Unfinished<Tile> unfinished(args);
  int64_t panel = args.panel_begin;
  if (args.num_rows <= kTileRows) {
    for (; panel + 4 <= args.panel_end; panel += 4) {
      TilePanels<Tile, 4>(args, steps, panel, unfinished);
    }
  }
  for (; panel + 2 <= args.panel_end; panel += 2) {
    TilePanels<Tile, 2>(args, steps, panel, unfinished);
  }
  for (; panel < args.panel_end; ++panel) TilePanels<Tile, 1>(args, steps, panel, unfinished);
  unfinished.Finish(unfinished.num_left());
}

// Exact sums are the same whoever adds them: few rows are multiplied with vectors.
void LinearI8I8(const LinearArgs& args) {
  constexpr int64_t kMaxVectorRows = 4;
  if (args.num_rows <= kMaxVectorRows) {
    Linear<DotI8I8>(args);
  } else {
    LinearTiles<TileI8I8>(args);
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LINEAR_AMX_H_
