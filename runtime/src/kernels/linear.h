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
//     Result(const Accumulator&, const LinearArgs&, row, channel, count) -> F32     sums, scaled by
//     x_scale
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

// Finishes 16 channels of a row: scale, bias, accumulate. Multiplications and additions stay
// unfused, in this order, in every instruction set, so that exact integer sums give equal results
// everywhere.
ENGINERY_INLINE void FinishPanel(const LinearArgs& args, int64_t row, int64_t channel, F32 sum) {
  const int64_t left = args.n - channel;
  const int64_t count = left < kPanelChannels ? left : kPanelChannels;
  float* y = args.y + row * args.y_pitch + channel;
  if (args.scale != nullptr) sum = Mul(sum, LoadFirst(args.scale + channel, count));
  if (args.bias != nullptr) sum = Add(sum, LoadFirst(args.bias + channel, count));
  if (args.accumulate) sum = Add(LoadFirst(y, count), sum);
  StoreFirst(y, count, sum);
}

template <class Dot, int kRows, int kPanels>
void Tile(const LinearArgs& args, int64_t row, int64_t panel) {
  const int64_t full_groups = args.k / Dot::kGroup;
  const int64_t tail = args.k % Dot::kGroup;
  const int64_t panel_bytes = (full_groups + (tail > 0)) * Dot::kWeightBytes;
  const std::byte* weight = static_cast<const std::byte*>(args.weight) + panel * panel_bytes;
  const std::byte* x = static_cast<const std::byte*>(args.x) + row * args.x_pitch;
  const int64_t x_pitch = args.x_pitch;

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
    // Far enough ahead to cover a trip to memory at the rate one core streams; harmless past the
    // end.
    constexpr int64_t kPrefetchBytes = 1024;
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      __builtin_prefetch(weight + p * panel_bytes + kPrefetchBytes);
    }
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
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const int64_t channel = (panel + p) * kPanelChannels;
      FinishPanel(args, row + r, channel, Dot::Result(sums[r][p], args, row + r, channel));
    }
  }
}

// The tile of num_rows (1 .. kRows) rows.
template <class Dot, int kRows, int kPanels>
ENGINERY_INLINE void TileOf(const LinearArgs& args, int64_t num_rows, int64_t row, int64_t panel) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) return TileOf<Dot, kRows - 1, kPanels>(args, num_rows, row, panel);
  }
  Tile<Dot, kRows, kPanels>(args, row, panel);
}

// All rows over kPanels panels, whose weights stay in the cache meanwhile. Tiles are as even as
// they can be: seven rows are 4 + 3, not 6 + 1.
template <class Dot, int kPanels>
void PanelGroup(const LinearArgs& args, int64_t panel) {
  const int64_t num_tiles = (args.num_rows + Dot::kMaxRows - 1) / Dot::kMaxRows;
  int64_t row = 0;
  for (int64_t t = 0; t < num_tiles; ++t) {
    const int64_t end = args.num_rows * (t + 1) / num_tiles;
    TileOf<Dot, Dot::kMaxRows, kPanels>(args, end - row, row, panel);
    row = end;
  }
}

template <class Dot>
void Linear(const LinearArgs& args) {
  int64_t panel = args.panel_begin;
  for (; panel + Dot::kPanels <= args.panel_end; panel += Dot::kPanels) {
    PanelGroup<Dot, Dot::kPanels>(args, panel);
  }
  for (; panel < args.panel_end; ++panel) PanelGroup<Dot, 1>(args, panel);
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LINEAR_H_
