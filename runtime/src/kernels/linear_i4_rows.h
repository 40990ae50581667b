// SPDX-License-Identifier: Apache-2.0
//
// What the products of u8 with i4 weights (linear_i4_*.h) share.
#ifndef ENGINERY_SRC_KERNELS_LINEAR_I4_ROWS_H_
#define ENGINERY_SRC_KERNELS_LINEAR_I4_ROWS_H_

#include "kernels/kernels.h"

namespace enginery {
namespace {

// group_shift(x, count) of each group of each row: [num_rows][num_groups()], in the scratch.
template <class GroupShift>
ENGINERY_INLINE const int32_t* I4GroupShifts(const LinearArgs& args, GroupShift group_shift) {
  const int64_t num_groups = args.num_groups();
  int32_t* shifts = reinterpret_cast<int32_t*>(args.scratch);
  if (args.is_prepared) return shifts;
  for (int64_t r = 0; r < args.num_rows; ++r) {
    const auto* x = static_cast<const uint8_t*>(args.x) + r * args.x_pitch;
    for (int64_t g = 0; g < num_groups; ++g) {
      const int64_t left = args.k - g * args.group;
      shifts[r * num_groups + g] =
          group_shift(x + g * args.group, left < args.group ? left : args.group);
    }
  }
  return shifts;
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LINEAR_I4_ROWS_H_
