// SPDX-License-Identifier: Apache-2.0
//
// The matrix product over packed panels, for any instruction set. A Dot (dots_*.h) says how one
// group of kGroup consecutive k is multiplied and accumulated:
//
//   struct Dot {
//     kGroup, kWeightBytes (of a panel's group), kInputBytes (of a row's group)
//     kMaxRows, kPanels                       rows and panels of the register tile
//     Weight, Input, Accumulator              types
//     Load(const std::byte*) -> Weight        Broadcast(const std::byte*) -> Input
//     Zero(), Accumulate(Accumulator&, const Weight&, const Input&)
//     Columns(const LinearArgs&, channel, count) -> Columns        what Result needs of 16 channels
//     Result(const Accumulator&, const Columns&, const LinearArgs&, row) -> F32  sums times x_scale
//   };
//
// Each output has one accumulator that walks K in order, whatever the tile, so a row's result does
// not depend on the rows beside it. Latency is hidden by the tile's independent accumulators, never
// by splitting K.
#ifndef ENGINERY_SRC_KERNELS_LINEAR_H_
#define ENGINERY_SRC_KERNELS_LINEAR_H_

#include "kernels/kernels.h"

namespace enginery {
namespace {

// Finishes rows of 16 channels: scale, bias, accumulate. Multiplications and additions stay
// unfused, in this order, in every instruction set, so that exact integer sums give equal results
// everywhere. Where there is no scale or bias, 1 and -0 stand for them, which change no bit.
template <class Dot>
class PanelFinish {
 public:
  ENGINERY_INLINE PanelFinish(const LinearArgs& args, int64_t channel)
      : count_(args.n - channel < kPanelChannels ? args.n - channel : kPanelChannels),
        columns_(args, channel, count_),
        scale_(args.scale == nullptr ? Set1(1.0f) : LoadFirst(args.scale + channel, count_)),
        bias_(args.bias == nullptr ? Set1(-0.0f) : LoadFirst(args.bias + channel, count_)) {}

  // What the constructor reads comes from memory too.
  static ENGINERY_INLINE void Fetch(const LinearArgs& args, int64_t channel) {
    if (args.scale != nullptr) __builtin_prefetch(args.scale + channel);
    if (args.bias != nullptr) __builtin_prefetch(args.bias + channel);
    if (args.column_sums != nullptr) __builtin_prefetch(args.column_sums + channel);
  }
  bool is_whole() const { return count_ == kPanelChannels; }
  ENGINERY_INLINE F32 Result(const typename Dot::Accumulator& accumulator, const LinearArgs& args,
                             int64_t row) const {
    return Add(Mul(Dot::Result(accumulator, columns_, args, row), scale_), bias_);
  }
  // Stores a row's channels at y, or adds them to what is there.
  ENGINERY_INLINE void Row(const typename Dot::Accumulator& accumulator, const LinearArgs& args,
                           int64_t row, float* y) const {
    F32 sum = Result(accumulator, args, row);
    if (args.accumulate) sum = Add(LoadFirst(y, count_), sum);
    StoreFirst(y, count_, sum);
  }

 private:
  int64_t count_;
  typename Dot::Columns columns_;
  F32 scale_, bias_;
};

constexpr int64_t kLineBytes = 64;

// What a tile fetches in each group of k: one of the two below. Weights come from memory once per
// panel group. All of it into L1, from where it falls into L2: fetched past L1, 16 rows read a
// tenth less on Zen 5.

// Bytes, in each of several streams; of a single one the including file's FetchAheadAlone.
constexpr int64_t kFetchAhead = 2048;

// Where memory is the limit: kPanels panels, each a little ahead of itself.
template <int kPanels>
class OwnPrefetch {
 public:
  // Of the kPanels panels from `panel` on of a product with Dot.
  template <class Dot>
  static ENGINERY_INLINE OwnPrefetch For(const LinearArgs& args, int64_t panel) {
    const int64_t num_groups = (args.k + Dot::kGroup - 1) / Dot::kGroup;
    const int64_t panel_bytes = num_groups * Dot::kWeightBytes;
    // What lies ahead of a panel's end is the next panel: of several, one that is multiplied
    // already.
    int64_t step = (kPanels - 1) * panel_bytes;
    if (panel + kPanels >= args.panel_end && args.next != nullptr) {
      step = static_cast<const std::byte*>(args.next) - static_cast<const std::byte*>(args.weight) -
             (panel + 1) * panel_bytes;
    }
    const int64_t bytes = kPanels == 1 ? FetchAheadAlone(args.num_rows) : kFetchAhead;
    const int64_t groups = bytes / Dot::kWeightBytes;
    const int64_t ahead = groups < num_groups ? groups : num_groups;
    return OwnPrefetch(ahead * Dot::kWeightBytes, num_groups - ahead, step);
  }
  // For the group of k whose weights begin at `weight`.
  ENGINERY_INLINE void FetchGroup(const std::byte* weight, int64_t panel_bytes) {
    if (num_own_groups_-- == 0) ahead_ += step_;
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) __builtin_prefetch(weight + p * panel_bytes + ahead_);
  }

 private:
  ENGINERY_INLINE OwnPrefetch(int64_t ahead, int64_t num_own_groups, int64_t step)
      : ahead_(ahead), num_own_groups_(num_own_groups), step_(step) {}

  int64_t ahead_;
  int64_t num_own_groups_;  // that have own weights ahead of them
  int64_t step_;            // from a panel's end to what is read then
};

// Where multiplying takes longer: the next panel group, of which each tile has its share, so that
// memory is read at an even pace; during the last one, what the thread multiplies after it. Nothing
// of use where two groups do not fit L2.
class NextPrefetch {
 public:
  // The share of the tile of rows [row, row + num_rows) over the kPanels panels from `panel` on.
  template <class Dot, int kPanels>
  static ENGINERY_INLINE NextPrefetch For(const LinearArgs& args, int64_t row, int64_t num_rows,
                                          int64_t panel) {
    const int64_t num_groups = (args.k + Dot::kGroup - 1) / Dot::kGroup;
    const int64_t group_bytes = kPanels * num_groups * Dot::kWeightBytes;
    const auto* group =
        static_cast<const std::byte*>(args.weight) + panel * num_groups * Dot::kWeightBytes;
    const bool is_last = panel + kPanels >= args.panel_end;
    if ((is_last && args.next == nullptr) || group_bytes > kMaxGroupBytes) return {group, 0};
    const auto* next = is_last ? static_cast<const std::byte*>(args.next) : group + group_bytes;
    return {next + group_bytes * row / args.num_rows,
            (kPanels * int64_t{Dot::kWeightBytes} * num_rows + args.num_rows - 1) / args.num_rows};
  }
  ENGINERY_INLINE void FetchGroup(const std::byte*, int64_t) {
    __builtin_prefetch(next_);
    __builtin_prefetch(next_ + step_ - kLineBytes);
    next_ += step_;
  }

 private:
  static constexpr int64_t kMaxGroupBytes = 768 * 1024;  // of an L2 of 1 or 2 MiB

  ENGINERY_INLINE NextPrefetch(const std::byte* next, int64_t step) : next_(next), step_(step) {}

  const std::byte* next_;
  int64_t step_;  // at most two lines; of many tiles, a part of one
};

// Where a tile's first row and channel go.
struct TileOutput {
  float* y;
  int64_t pitch;  // floats from row to row

  static TileOutput At(const LinearArgs& args, int64_t row, int64_t panel) {
    return {args.y + row * args.y_pitch + panel * kPanelChannels, args.y_pitch};
  }
};

template <class Dot, int kRows, int kPanels, class Prefetch>
void Tile(const LinearArgs& args, int64_t row, int64_t panel, Prefetch prefetch,
          const TileOutput& to) {
  const int64_t full_groups = args.k / Dot::kGroup;
  const int64_t tail = args.k % Dot::kGroup;
  const int64_t panel_bytes = (full_groups + (tail > 0)) * Dot::kWeightBytes;
  const std::byte* weight = static_cast<const std::byte*>(args.weight) + panel * panel_bytes;
  const std::byte* x = static_cast<const std::byte*>(args.x) + row * args.x_pitch;
  const int64_t x_pitch = args.x_pitch;

#pragma GCC unroll 8
  for (int p = 0; p < kPanels; ++p) {
    PanelFinish<Dot>::Fetch(args, (panel + p) * kPanelChannels);
  }
  // What is written has left the caches since it was last, too.
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      __builtin_prefetch(to.y + r * to.pitch + p * kPanelChannels, 1);
    }
  }
  typename Dot::Accumulator sums[kRows][kPanels];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) sums[r][p] = Dot::Zero();
  }
  const auto accumulate_group = [&](const std::byte* w, const std::byte* input,
                                    int64_t input_pitch) ENGINERY_LAMBDA_INLINE {
    typename Dot::Weight weights[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) weights[p] = Dot::Load(w + p * panel_bytes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const typename Dot::Input broadcast = Dot::Broadcast(input + r * input_pitch);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) Dot::Accumulate(sums[r][p], weights[p], broadcast);
    }
  };
  for (int64_t g = 0; g < full_groups; ++g) {
    prefetch.FetchGroup(weight, panel_bytes);
    accumulate_group(weight, x, x_pitch);
    weight += Dot::kWeightBytes;
    x += Dot::kInputBytes;
  }
  if (tail > 0) {
    // Weights are padded with zeros; the inputs past the row's end are replaced by zeros, for they
    // may be anything.
    alignas(16) std::byte last[kRows][Dot::kInputBytes] = {};
    for (int r = 0; r < kRows; ++r) {
      const size_t bytes = static_cast<size_t>(tail * (Dot::kInputBytes / Dot::kGroup));
      __builtin_memcpy(last[r], x + r * x_pitch, bytes);
    }
    accumulate_group(weight, last[0], Dot::kInputBytes);
  }
#pragma GCC unroll 8
  for (int p = 0; p < kPanels; ++p) {
    const PanelFinish<Dot> finish(args, (panel + p) * kPanelChannels);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      finish.Row(sums[r][p], args, row + r, to.y + r * to.pitch + p * kPanelChannels);
    }
  }
}

// The tile of num_rows (1 .. kRows) rows.
template <class Dot, int kRows, int kPanels, class Prefetch>
ENGINERY_INLINE void TileOf(const LinearArgs& args, int64_t num_rows, int64_t row, int64_t panel,
                            Prefetch prefetch, const TileOutput& to) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows)
      return TileOf<Dot, kRows - 1, kPanels>(args, num_rows, row, panel, prefetch, to);
  }
  Tile<Dot, kRows, kPanels>(args, row, panel, prefetch, to);
}

// Calls body(row, num_rows) for the rows [begin, end) in tiles of at most max_rows, as even as they
// can be: seven rows are 4 + 3, not 6 + 1.
template <class Body>
ENGINERY_INLINE void ForEachTile(int64_t begin, int64_t end, int64_t max_rows, const Body& body) {
  const int64_t num_tiles = (end - begin + max_rows - 1) / max_rows;
  int64_t row = begin;
  for (int64_t t = 1; t <= num_tiles; ++t) {
    const int64_t next = begin + (end - begin) * t / num_tiles;
    body(row, next - row);
    row = next;
  }
}

// Calls body.operator()<n>(panel) for the n = kPanels panels from `panel` on, and so forth; those
// that are left over at once too.
template <int kPanels, class Body>
ENGINERY_INLINE void ForEachPanelGroup(int64_t panel, int64_t panel_end, const Body& body) {
  for (; panel + kPanels <= panel_end; panel += kPanels) body.template operator()<kPanels>(panel);
  if constexpr (kPanels > 1) ForEachPanelGroup<kPanels - 1>(panel, panel_end, body);
}

// All rows over kPanels panels, whose weights stay in the cache meanwhile.
template <class Dot, int kPanels>
void PanelGroup(const LinearArgs& args, int64_t panel) {
  ForEachTile(0, args.num_rows, Dot::kMaxRows, [&](int64_t row, int64_t num_rows) {
    TileOf<Dot, Dot::kMaxRows, kPanels>(args, num_rows, row, panel,
                                        NextPrefetch::For<Dot, kPanels>(args, row, num_rows, panel),
                                        TileOutput::At(args, row, panel));
  });
}

// Of many rows, or with weights that are in the cache.
template <class Dot>
void LinearByGroups(const LinearArgs& args) {
  ForEachPanelGroup<Dot::kPanels>(
      args.panel_begin, args.panel_end,
      [&]<int kPanels>(int64_t panel) { PanelGroup<Dot, kPanels>(args, panel); });
}

// Of rows that one tile takes, with memory as the limit: kStreams panels at once.
template <class Dot, int kStreams>
void LinearOfFewRows(const LinearArgs& args) {
  ForEachPanelGroup<kStreams>(args.panel_begin, args.panel_end, [&]<int kPanels>(int64_t panel) {
    TileOf<Dot, Dot::kMaxRows, kPanels>(args, args.num_rows, 0, panel,
                                        OwnPrefetch<kPanels>::template For<Dot>(args, panel),
                                        TileOutput::At(args, 0, panel));
  });
}

// Panels lie one behind the other, so that one at a time makes a thread's weights one stream: Zen 5
// reads 52 GB/s so with two threads and 43 in three streams, whose beginnings are waited for.
// linear_streamed_avx512.h does the same with more rows.
template <class Dot>
void Linear(const LinearArgs& args) {
  if (args.num_rows <= Dot::kMaxRows) {
    LinearOfFewRows<Dot, 1>(args);
  } else {
    LinearByGroups<Dot>(args);
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LINEAR_H_
