// SPDX-License-Identifier: Apache-2.0
//
// The table of one instruction set, from the lanes, dots and tile sizes of the file that includes
// this.
#ifndef ENGINERY_SRC_KERNELS_TABLE_H_
#define ENGINERY_SRC_KERNELS_TABLE_H_

#include "kernels/attention.h"
#include "kernels/group_sums.h"
#include "kernels/kernels.h"
#include "kernels/linear.h"
#include "kernels/linear_unpacked.h"
#include "kernels/rows.h"

namespace enginery {
namespace {

// As many panels at once as fill whole register tiles.
template <class Unpack, class Dot>
constexpr LinearKernel kUnpackedBy =
    LinearUnpacked<Unpack, LinearByGroups<Dot>, kUnpackedPanels / Dot::kPanels * Dot::kPanels>;

// Few rows convert weights in registers; for more it pays to do it once.
void LinearBf16E4M3(const LinearArgs& args) {
  if (args.num_rows <= DotBf16E4M3::kMaxRows) {
    Linear<DotBf16E4M3>(args);
  } else {
    kUnpackedBy<E4M3ToBf16, DotBf16Bf16>(args);
  }
}

constexpr Kernels MakeKernels(const char* name) {
  return {
      .name = name,
      .linear_f32_f32 = Linear<DotF32F32>,
      .linear_bf16_bf16 = Linear<DotBf16Bf16>,
      .linear_i8_i8 = Linear<DotI8I8>,
      .linear_f32_i8 = Linear<DotF32I8>,
      .linear_bf16_i8 = Linear<DotBf16I8>,
      .linear_i8_i4 = kUnpackedBy<I4ToI8, DotI8I8>,
      .linear_bf16_e4m3 = LinearBf16E4M3,
      .linear_bf16_i4 = kUnpackedBy<I4ToBf16, DotBf16Bf16>,
      .linear_e4m3_i4 = kUnpackedBy<I4ToE4M3, DotBf16Bf16>,
      .gated_bf16_bf16 = nullptr,
      .gated_i8_i8 = nullptr,
      .attention_f32 = Attention<VectorProducts<CacheF32>>,
      .attention_bf16 = Attention<VectorProducts<CacheBf16>>,
      .attention_i8 = Attention<VectorProducts<CacheI8>>,
      .attention_e4m3 = Attention<VectorProducts<CacheE4M3>>,
      .rms_norm_row = RmsNormRow,
      .silu_mul_row = SiluMulRow,
      .add_row = AddRow,
      .multiply_row = MultiplyRow,
      .group_sums_row = GroupSumsRow<float>,
      .group_sums_bf16_row = GroupSumsRow<uint16_t>,
      .group_sums_i8_row = GroupSumsI8Row,
      .rope_heads = RopeHeads,
      .bf16_row = Bf16Row,
      .i8_row = I8Row,
      .e4m3_row = E4M3Row,
      .bf16_row_pair = Bf16RowPair,
      .static_i8_row = StaticI8Row,
      .static_e4m3_row = StaticE4M3Row,
      .quantize_row = QuantizeRow,
      .quantize_bf16_row = QuantizeBf16Row,
      .quantize_rms_norm_row = QuantizeRmsNormRow,
  };
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_TABLE_H_
