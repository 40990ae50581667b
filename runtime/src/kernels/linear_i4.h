// SPDX-License-Identifier: Apache-2.0
//
// The product with i4 weights in groups (layout n16k8). A code times its group's multiplier is an
// i8 weight, so sums are the exact i32 sums of linear_i8_i8 over those weights, however they come
// about: a few panels are unpacked to i8 (layout n16k4) and multiplied there, or, for few rows,
// sums of a group are multiplied instead of its weights.
#ifndef ENGINERY_SRC_KERNELS_LINEAR_I4_H_
#define ENGINERY_SRC_KERNELS_LINEAR_I4_H_

#include "kernels/kernels.h"

namespace enginery {
namespace {

// One panel to i8. Byte b of a channel's 4 bytes in a group of 8 k holds the codes of k = b in its
// low half and of k = 4 + b in its high half. See Unpack64 of the including file (lanes_*.h).
ENGINERY_INLINE void UnpackPanel(const std::byte* weight, const int8_t* group_scales, int64_t k,
                                 std::byte* to) {
  constexpr int64_t kBytes = 64, kEighths = kWeightGroup / 8;
  const int64_t groups = (k + 7) / 8;
  for (int64_t g = 0; g < groups; g += kEighths) {
    const GroupScales scales = LoadGroupScales(group_scales + g / kEighths * kPanelChannels);
    const int64_t end = g + kEighths < groups ? g + kEighths : groups;
    for (int64_t i = g; i < end; ++i) {
      __builtin_prefetch(weight + i * kBytes + 4096, 0, 2);
      Unpack64(weight + i * kBytes, scales, to + i * 2 * kBytes);
    }
  }
}

template <LinearKernel kLinearI8I8>
void LinearI8I4(const LinearArgs& args) {
  const int64_t panel_bytes = PanelBytes(args.k, 8);
  const int64_t num_groups = (args.k + kWeightGroup - 1) / kWeightGroup;
  const int64_t unpacked_bytes = PanelBytes(args.k, 4);
  for (int64_t panel = args.panel_begin; panel < args.panel_end; panel += kUnpackedPanels) {
    const int64_t end =
        panel + kUnpackedPanels < args.panel_end ? panel + kUnpackedPanels : args.panel_end;
    // In order: a panel writes whole eights of k, and what is past its end belongs to the next one.
    for (int64_t p = panel; p < end; ++p) {
      UnpackPanel(static_cast<const std::byte*>(args.weight) + p * panel_bytes,
                  args.group_scales + p * num_groups * kPanelChannels, args.k,
                  args.scratch + (p - panel) * unpacked_bytes);
    }
    LinearArgs unpacked = OfPanels(args, panel, end, panel_bytes);
    unpacked.weight = args.scratch;
    kLinearI8I8(unpacked);
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LINEAR_I4_H_
