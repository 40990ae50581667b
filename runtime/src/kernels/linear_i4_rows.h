// SPDX-License-Identifier: Apache-2.0
//
// The product of u8 with i4 weights: few rows one by one, by kPanels panels at a time, on
// GroupShift and RowI4 of the file that includes this (linear_i4_*.h); more rows as kManyRows does
// it.
#ifndef ENGINERY_SRC_KERNELS_LINEAR_I4_ROWS_H_
#define ENGINERY_SRC_KERNELS_LINEAR_I4_ROWS_H_

#include "kernels/kernels.h"

namespace enginery {
namespace {

template <int kPanels, LinearKernel kManyRows>
void LinearI8I4(const LinearArgs& args) {
  constexpr int64_t kMaxDirectRows = 3;
  if (args.num_rows > kMaxDirectRows) return kManyRows(args);
  const int64_t num_groups = args.num_groups();
  int32_t* shifts = reinterpret_cast<int32_t*>(args.scratch);  // [rows][num_groups]
  for (int64_t r = 0; r < args.num_rows; ++r) {
    const auto* x = static_cast<const uint8_t*>(args.x) + r * args.x_pitch;
    for (int64_t g = 0; g < num_groups; ++g) {
      const int64_t left = args.k - g * args.group;
      shifts[r * num_groups + g] =
          GroupShift(x + g * args.group, left < args.group ? left : args.group);
    }
  }
  int64_t panel = args.panel_begin;
  for (; panel + kPanels <= args.panel_end; panel += kPanels) {
    for (int64_t r = 0; r < args.num_rows; ++r) {
      RowI4<kPanels>(args, r, panel, shifts + r * num_groups);
    }
  }
  for (; panel < args.panel_end; ++panel) {
    for (int64_t r = 0; r < args.num_rows; ++r) {
      RowI4<1>(args, r, panel, shifts + r * num_groups);
    }
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LINEAR_I4_ROWS_H_
