// SPDX-License-Identifier: Apache-2.0
//
// Operands of attention that are bf16 in value, where the instruction set multiplies f32. What
// includes this has lanes and DotF32F32.
#ifndef ENGINERY_SRC_KERNELS_OPERAND_BF16_AS_F32_H_
#define ENGINERY_SRC_KERNELS_OPERAND_BF16_AS_F32_H_

#include <cstdint>

namespace enginery {
namespace {

struct OperandBf16 : DotF32F32 {
  using Element = float;
  static ENGINERY_INLINE void StoreRow(float* p, int64_t n, const F32& a) {
    StoreFirst(p, n, RoundToBf16(a));
  }
  // Sixteen pairs of row `row` of [pair rows][columns][2], to rows 2 row and 2 row + 1 of
  // [rows][columns].
  static ENGINERY_INLINE void StorePairs(float* to, int64_t row, int64_t column, int64_t columns,
                                         const Pairs& pairs) {
    Store(to + 2 * row * columns + column, pairs.even);
    Store(to + (2 * row + 1) * columns + column, pairs.odd);
  }
};

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_OPERAND_BF16_AS_F32_H_
