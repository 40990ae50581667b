// SPDX-License-Identifier: Apache-2.0
#include "kernels/dots_avx2.h"
#include "kernels/lanes_avx2.h"
#include "kernels/linear_i4_avx2.h"
#include "kernels/linear_widened_avx2.h"

// What follows is written on the above.
#include "kernels/table.h"

namespace enginery {
namespace {

// From as many rows on as pay for widening.
template <LinearKernel kDirect, class Widen>
void WidenedFrom(const LinearArgs& args) {
  constexpr int64_t kMinRows = 8;
  if (args.num_rows < kMinRows) {
    kDirect(args);
  } else {
    WidenedLinear<Widen>(args);
  }
}

}  // namespace

const Kernels& Avx2Kernels() {
  static constexpr Kernels kKernels = [] {
    Kernels kernels = MakeKernels("avx2");
    kernels.linear_f32_f32 = WidenedFrom<Linear<DotF32F32>, WidenF32F32>;
    kernels.linear_bf16_bf16 = WidenedFrom<Linear<DotBf16Bf16>, WidenBf16Bf16>;
    kernels.linear_i8_i8 = WidenedFrom<Linear<DotI8I8>, WidenI8I8>;
    kernels.linear_f32_i8 = WidenedFrom<Linear<DotF32I8>, WidenXI8<RowF32>>;
    kernels.linear_bf16_i8 = WidenedFrom<Linear<DotBf16I8>, WidenXI8<RowBf16>>;
    kernels.linear_i8_i4 = LinearI8I4<WidenedLinear<WidenI8I4>>;
    kernels.linear_bf16_e4m3 = WidenedFrom<Linear<DotBf16E4M3>, WidenBf16E4M3>;
    kernels.linear_bf16_i4 =
        WidenedFrom<LinearUnpacked<I4ToBf16, Linear<DotBf16Bf16>>, WidenBf16I4<ToBf16>>;
    kernels.linear_e4m3_i4 =
        WidenedFrom<LinearUnpacked<I4ToE4M3, Linear<DotBf16Bf16>>, WidenBf16I4<ToE4M3>>;
    return kernels;
  }();
  return kKernels;
}

}  // namespace enginery
