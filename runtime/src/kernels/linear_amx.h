// SPDX-License-Identifier: Apache-2.0
//
// The matrix product over packed panels with AMX tiles. 16 groups of a panel are one tile of
// weights as they lie in memory, 64 bytes of 16 rows of x one tile of inputs, so both are loaded in
// place.
//
// A block is kRowTiles row tiles by kPanels panels, up to four tiles of sums that walk the whole of
// K. Its sums are finished (scales, bias, gate times up) while the next block multiplies: a few
// rows after each step, so that vector instructions fill the time in which the tile unit is busy.
//
// With more than 16 rows the last row tile overlaps the one before instead of being shorter: the
// shape of tiles is then one for the whole call. Rows computed twice are stored once.
#ifndef ENGINERY_SRC_KERNELS_LINEAR_AMX_H_
#define ENGINERY_SRC_KERNELS_LINEAR_AMX_H_

#include <type_traits>

#include "kernels/kernels.h"
#include "kernels/linear.h"
#include "kernels/rows.h"
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

// What a block multiplies: its panels (of a gated product gate and up in turn) and the first rows
// of its row tiles, of which those from first_row + 16 t on are to be stored.
struct TileWork {
  int64_t panels[4];
  int64_t tile_rows[2];
  int64_t first_row;
};

// What a block fetches into L2 in each step: lines of the panels that come after its own.
struct TilePrefetch {
  const std::byte* panels[2];
  int64_t lines_per_step;  // of each panel
};

// Sums of a block that are still to be finished. Instructions count here: a few rows at a time
// stand in the way of each step's tiles.
template <class Tile, bool kGated>
class Unfinished {
 public:
  static constexpr int64_t kRowsAtOnce = 4;

  explicit Unfinished(const LinearArgs& args) : args_(args) {}

  // Where the next block's sums go: tiles of 16 rows by 16 channels, the row tiles of a panel after
  // each other.
  std::byte* sums() { return sums_; }
  template <int kPanels>
  void Add(int64_t num_row_tiles, int64_t num_rows, const TileWork& work) {
    work_ = work;
    num_row_tiles_ = num_row_tiles;
    num_rows_ = num_rows;
    panel_ = row_tile_ = row_ = 0;
    num_left_ = (kGated ? kPanels / 2 : kPanels) * num_row_tiles *
                ((num_rows + kRowsAtOnce - 1) / kRowsAtOnce);
    for (int p = 0; p < kPanels; ++p) {
      finish_[p] = PanelFinish<Tile>(args_, work.panels[p] * kPanelChannels);
    }
  }
  // Pieces of kRowsAtOnce rows.
  int64_t num_left() const { return num_left_; }
  // Finishes `count` pieces, or what is left.
  ENGINERY_INLINE void Finish(int64_t count) {
    if (count > num_left_) count = num_left_;
    num_left_ -= count;
    for (; count > 0; --count) {
      FinishPiece();
      row_ += kRowsAtOnce;
      if (row_ < num_rows_) continue;
      row_ = 0;
      if (++row_tile_ < num_row_tiles_) continue;
      row_tile_ = 0;
      panel_ += kGated ? 2 : 1;
    }
  }

 private:
  using Element = std::conditional_t<kGated, uint16_t, float>;

  ENGINERY_INLINE void FinishPiece() {
    const int64_t first = work_.tile_rows[row_tile_] + row_;
    const int64_t first_stored = work_.first_row + row_tile_ * kTileRows;
    const std::byte* sums =
        sums_ + (panel_ * num_row_tiles_ + row_tile_) * kTileBytes + row_ * kTileRowBytes;
    Element* y = reinterpret_cast<Element*>(args_.y) + first * args_.y_pitch +
                 work_.panels[panel_] * kPanelChannels;
    const bool is_whole =
        first >= first_stored && row_ + kRowsAtOnce <= num_rows_ && finish_[panel_].is_whole();
    if (!is_whole) {
      for (int64_t r = 0; r < kRowsAtOnce && row_ + r < num_rows_; ++r) {
        if (first + r >= first_stored) FinishRow<false>(sums, first, r, y);
      }
    } else if (args_.accumulate) {
#pragma GCC unroll 4
      for (int64_t r = 0; r < kRowsAtOnce; ++r) FinishRow<true, true>(sums, first, r, y);
    } else {
#pragma GCC unroll 4
      for (int64_t r = 0; r < kRowsAtOnce; ++r) FinishRow<true, false>(sums, first, r, y);
    }
  }

  // Row first + r, whose sums stand r rows after `sums` and whose result goes r rows after y.
  template <bool kIsWhole, bool kAccumulate = false>
  ENGINERY_INLINE void FinishRow(const std::byte* sums, int64_t first, int64_t r,
                                 Element* y) const {
    const auto sum = Tile::LoadSums(sums + r * kTileRowBytes);
    Element* to = y + r * args_.y_pitch;
    if constexpr (kGated) {
      const std::byte* up = sums + num_row_tiles_ * kTileBytes + r * kTileRowBytes;
      const F32 gate = finish_[panel_].Result(sum, args_, first + r);
      const F32 product =
          SiluMul(gate, finish_[panel_ + 1].Result(Tile::LoadSums(up), args_, first + r));
      StoreBf16First(to, kLanes, product);
    } else if constexpr (!kIsWhole) {
      finish_[panel_].Row(sum, args_, first + r, to);
    } else {
      const F32 result = finish_[panel_].Result(sum, args_, first + r);
      Store(to, kAccumulate ? enginery::Add(Load(to), result) : result);
    }
  }

  const LinearArgs args_;  // a copy: what is stored through y cannot change it
  TileWork work_{};
  int64_t num_row_tiles_ = 1, num_rows_ = 1;
  int64_t panel_ = 0, row_tile_ = 0, row_ = 0, num_left_ = 0;  // the next piece
  PanelFinish<Tile> finish_[4] = {PanelFinish<Tile>(args_, 0), PanelFinish<Tile>(args_, 0),
                                  PanelFinish<Tile>(args_, 0), PanelFinish<Tile>(args_, 0)};
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

template <class Tile, bool kGated, int kRowTiles, int kPanels>
void TileBlock(const LinearArgs& args, const TileSteps& steps, int64_t num_tile_rows,
               const TileWork& work, TilePrefetch prefetch, Unfinished<Tile, kGated>& unfinished) {
  static_assert(kRowTiles * kPanels <= kTileA);
  const std::byte* x[kRowTiles];
  for (int t = 0; t < kRowTiles; ++t) {
    x[t] = static_cast<const std::byte*>(args.x) + work.tile_rows[t] * args.x_pitch;
  }
  const std::byte* weight[kPanels];
  for (int p = 0; p < kPanels; ++p) {
    weight[p] = static_cast<const std::byte*>(args.weight) + work.panels[p] * steps.panel_bytes;
  }

  ZeroSums<kRowTiles * kPanels>();
  // The tile of sums of row tile t and panel p is p * kRowTiles + t.
  const auto multiply = [](const std::byte* x0, const std::byte* x1, int64_t x_pitch,
                           const std::byte* const(&w)[kPanels]) ENGINERY_LAMBDA_INLINE {
    TileLoad<kTileA>(x0, x_pitch);
    if constexpr (kRowTiles == 2) {
      TileLoad<kTileA + 1>(x1, x_pitch);
      // The rows of x come again with the next panels, and stay in L1 beside weights that do not.
      TileLoadPassing<kTileB>(w[0], kTileRowBytes);
      Tile::template Multiply<0, kTileA, kTileB>();
      Tile::template Multiply<1, kTileA + 1, kTileB>();
      if constexpr (kPanels == 2) {
        TileLoadPassing<kTileB + 1>(w[1], kTileRowBytes);
        Tile::template Multiply<2, kTileA, kTileB + 1>();
        Tile::template Multiply<3, kTileA + 1, kTileB + 1>();
      }
    } else {
      TileLoad<kTileB>(w[0], kTileRowBytes);
      Tile::template Multiply<0, kTileA, kTileB>();
      if constexpr (kPanels > 1) {
        TileLoad<kTileB + 1>(w[1], kTileRowBytes);
        Tile::template Multiply<1, kTileA, kTileB + 1>();
      }
      if constexpr (kPanels > 2) {
        TileLoad<kTileB>(w[2], kTileRowBytes);
        Tile::template Multiply<2, kTileA, kTileB>();
        TileLoad<kTileB + 1>(w[3], kTileRowBytes);
        Tile::template Multiply<3, kTileA, kTileB + 1>();
      }
    }
  };
  // So many pieces of the block before are finished after each step that none is left at the end.
  // Not after the first steps: its sums are still on their way to memory.
  constexpr int64_t kFirstStep = 3;
  const int64_t finishing_steps = steps.full - kFirstStep;
  const int64_t pieces_per_step =
      finishing_steps <= 0 ? 0 : (unfinished.num_left() + finishing_steps - 1) / finishing_steps;
  for (int64_t s = 0; s < steps.full; ++s) {
    multiply(x[0], x[kRowTiles - 1], args.x_pitch, weight);
    if (kRowTiles == 1) {
      // Memory is the limit: see OwnPrefetch in linear.h.
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
        for (int line = 0; line < kTileRows; ++line) {
          __builtin_prefetch(weight[p] + kFetchAhead + line * kTileRowBytes);
        }
      }
    } else {
      // The next panels come into L2 meanwhile.
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        for (int64_t line = 0; line < prefetch.lines_per_step; ++line) {
          __builtin_prefetch(prefetch.panels[p] + line * kTileRowBytes, 0, 2);
        }
        prefetch.panels[p] += prefetch.lines_per_step * kTileRowBytes;
      }
    }
    if (s >= kFirstStep) unfinished.Finish(pieces_per_step);
    for (int t = 0; t < kRowTiles; ++t) x[t] += kTileRowBytes;
    for (int p = 0; p < kPanels; ++p) weight[p] += kTileBytes;
  }
  unfinished.Finish(unfinished.num_left());
  if (steps.tail_groups > 0) {
    // Inputs and weights past the end are replaced by zeros, for they may be anything.
    alignas(64) std::byte last_x[kRowTiles][kTileBytes] = {};
    alignas(64) std::byte last_weight[kPanels][kTileBytes] = {};
    const std::byte* last[kPanels];
    for (int t = 0; t < kRowTiles; ++t) {
      for (int64_t r = 0; r < num_tile_rows; ++r) {
        __builtin_memcpy(last_x[t] + r * kTileRowBytes, x[t] + r * args.x_pitch,
                         static_cast<size_t>(steps.tail_input_bytes));
      }
    }
    for (int p = 0; p < kPanels; ++p) {
      __builtin_memcpy(last_weight[p], weight[p],
                       static_cast<size_t>(steps.tail_groups * kTileRowBytes));
      last[p] = last_weight[p];
    }
    multiply(last_x[0], last_x[kRowTiles - 1], kTileRowBytes, last);
  }
  StoreSums<kRowTiles * kPanels>(unfinished.sums(), kTileBytes, kTileRowBytes);
  unfinished.template Add<kPanels>(kRowTiles, num_tile_rows, work);
}

// Panels in the order in which blocks take them: of a gated product each gate's up follows it.
template <bool kGated>
ENGINERY_INLINE int64_t PanelAt(const LinearArgs& args, int64_t i) {
  if constexpr (!kGated) return args.panel_begin + i;
  return args.panel_begin + i / 2 + i % 2 * (args.n / 2 / kPanelChannels);
}

template <class Tile, bool kGated, int kRowTiles, int kPanels>
ENGINERY_INLINE void TileBlockAt(const LinearArgs& args, const TileSteps& steps, int64_t row,
                                 int64_t i, const TilePrefetch& prefetch,
                                 Unfinished<Tile, kGated>& unfinished) {
  const int64_t tile_rows = args.num_rows < kTileRows ? args.num_rows : kTileRows;
  const int64_t last = args.num_rows - tile_rows;
  TileWork work{
      {}, {row < last ? row : last, row + kTileRows < last ? row + kTileRows : last}, row};
  for (int p = 0; p < kPanels; ++p) work.panels[p] = PanelAt<kGated>(args, i + p);
  TileBlock<Tile, kGated, kRowTiles, kPanels>(args, steps, tile_rows, work, prefetch, unfinished);
}

// The share of panels i and i + 1 that the block of rows `row` fetches: all rows together fetch
// them whole, evenly, so that memory is never waited for and never idle.
template <bool kGated>
ENGINERY_INLINE TilePrefetch NextSlab(const LinearArgs& args, const TileSteps& steps, int64_t row,
                                      int64_t i, int64_t num_panels) {
  if (i + 2 > num_panels) return {};
  const int64_t blocks = (args.num_rows + 2 * kTileRows - 1) / (2 * kTileRows);
  const int64_t lines = (kTileRows + blocks - 1) / blocks;
  const int64_t first_line = row / (2 * kTileRows) * lines * steps.full;
  if (first_line >= steps.full * kTileRows) return {};  // by the rows before
  TilePrefetch prefetch{{}, lines};
  for (int p = 0; p < 2; ++p) {
    prefetch.panels[p] = static_cast<const std::byte*>(args.weight) +
                         PanelAt<kGated>(args, i + p) * steps.panel_bytes +
                         first_line * kTileRowBytes;
  }
  return prefetch;
}

template <class Tile, bool kGated>
void Tiles(const LinearArgs& args) {
  const TileScope tiles(args.num_rows < kTileRows ? args.num_rows : kTileRows);
  const TileSteps steps = StepsOf<Tile>(args);
  Unfinished<Tile, kGated> unfinished(args);
  const int64_t num_panels = (args.panel_end - args.panel_begin) * (kGated ? 2 : 1);
  if (args.num_rows <= kTileRows) {
    int64_t i = 0;
    for (; i + 4 <= num_panels; i += 4) {
      TileBlockAt<Tile, kGated, 1, 4>(args, steps, 0, i, {}, unfinished);
    }
    for (; i + 2 <= num_panels; i += 2) {
      TileBlockAt<Tile, kGated, 1, 2>(args, steps, 0, i, {}, unfinished);
    }
    if constexpr (!kGated) {
      if (i < num_panels) TileBlockAt<Tile, kGated, 1, 1>(args, steps, 0, i, {}, unfinished);
    }
  } else {
    // A slab of panels stays in L2 while all rows pass, and two tiles of rows stay nearer while the
    // slab's panels pass.
    constexpr int64_t kSlabBytes = 128 * 1024;
    const int64_t fit = kSlabBytes / steps.panel_bytes / 2 * 2;
    const int64_t slab = fit < 2 ? 2 : fit;
    for (int64_t begin = 0; begin < num_panels; begin += slab) {
      const int64_t end = begin + slab < num_panels ? begin + slab : num_panels;
      for (int64_t row = 0; row < args.num_rows; row += 2 * kTileRows) {
        const bool is_single = args.num_rows - row <= kTileRows;
        for (int64_t i = begin; i < end; i += 2) {
          const TilePrefetch prefetch = NextSlab<kGated>(args, steps, row, i + slab, num_panels);
          if (i + 2 > end) {
            if (is_single) {
              TileBlockAt<Tile, kGated, 1, 1>(args, steps, row, i, {}, unfinished);
            } else {
              TileBlockAt<Tile, kGated, 2, 1>(args, steps, row, i, {}, unfinished);
            }
          } else if (is_single) {
            TileBlockAt<Tile, kGated, 1, 2>(args, steps, row, i, {}, unfinished);
          } else {
            TileBlockAt<Tile, kGated, 2, 2>(args, steps, row, i, prefetch, unfinished);
          }
        }
      }
    }
  }
  unfinished.Finish(unfinished.num_left());
}

template <class Tile>
void LinearTiles(const LinearArgs& args) {
  Tiles<Tile, false>(args);
}
template <class Tile>
void GatedTiles(const LinearArgs& args) {
  Tiles<Tile, true>(args);
}

// Exact sums are the same whoever adds them: few rows are multiplied with vectors.
void LinearI8I8(const LinearArgs& args) {
  constexpr int64_t kMaxVectorRows = 4;
  if (args.num_rows <= kMaxVectorRows) {
    // Three streams: two threads on Granite Rapids read 31 GB/s so, 24 when they fetch the next
    // panels instead, and 29 when they fetch nothing.
    LinearOfFewRows<DotI8I8, 3>(args);
  } else {
    LinearTiles<TileI8I8>(args);
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LINEAR_AMX_H_
