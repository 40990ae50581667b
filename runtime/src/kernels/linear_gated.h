// SPDX-License-Identifier: Apache-2.0
//
// silu(x G^T) * (x U^T) of gates G and ups U that are the two halves of one weight's panels: y is
// bf16 [num_rows, n / 2]. A tile of gates and the tile of the ups beside it are left in L1 and
// multiplied there, and the tile of x that both read stays there too. Results are those of
// linear.h, silu_mul_row and bf16_row, bit for bit.
#ifndef ENGINERY_SRC_KERNELS_LINEAR_GATED_H_
#define ENGINERY_SRC_KERNELS_LINEAR_GATED_H_

#include "kernels/kernels.h"
#include "kernels/linear.h"
#include "kernels/rows.h"

namespace enginery {
namespace {

template <class Dot, int kPanels>
void GatedPanelGroup(const LinearArgs& gates, const LinearArgs& ups, int64_t panel) {
  constexpr int64_t kColumns = kPanels * kPanelChannels;
  alignas(64) float gate[Dot::kMaxRows * kColumns];
  alignas(64) float up[Dot::kMaxRows * kColumns];
  uint16_t* y = reinterpret_cast<uint16_t*>(gates.y) + panel * kPanelChannels;
  const int64_t up_panel = panel + gates.n / 2 / kPanelChannels;
  ForEachTile(0, gates.num_rows, Dot::kMaxRows, [&](int64_t row, int64_t num_rows) {
    const auto multiply = [&](const LinearArgs& args, int64_t first, float* to) {
      TileOf<Dot, Dot::kMaxRows, kPanels>(
          args, num_rows, row, first, NextPrefetch::For<Dot, kPanels>(args, row, num_rows, first),
          {to, kColumns});
    };
    multiply(gates, panel, gate);
    multiply(ups, up_panel, up);
    for (int64_t r = 0; r < num_rows; ++r) {
      uint16_t* to = y + (row + r) * gates.y_pitch;
#pragma GCC unroll 8
      for (int64_t c = 0; c < kColumns; c += kLanes) {
        const int64_t at = r * kColumns + c;
        StoreBf16First(to + c, kLanes, SiluMul(Load(gate + at), Load(up + at)));
      }
    }
  });
}

template <class Dot>
void Gated(const LinearArgs& gates) {
  LinearArgs ups = gates;  // for they end elsewhere
  ups.panel_end += gates.n / 2 / kPanelChannels;
  ups.next = nullptr;
  ForEachPanelGroup<Dot::kPanels>(
      gates.panel_begin, gates.panel_end,
      [&]<int kPanels>(int64_t panel) { GatedPanelGroup<Dot, kPanels>(gates, ups, panel); });
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LINEAR_GATED_H_
