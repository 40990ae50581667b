// SPDX-License-Identifier: Apache-2.0
#include "kernels/dots_avx512.h"
#include "kernels/lanes_avx512.h"

// What follows is written on the above.
#include "kernels/linear_gated.h"
#include "kernels/linear_i4_avx512.h"
#include "kernels/linear_streamed_avx512.h"
#include "kernels/linear_unpacked.h"
#include "kernels/table.h"

namespace enginery {

const Kernels& Avx512Kernels() {
  static constexpr Kernels kKernels = [] {
    Kernels kernels = MakeKernels("avx512");
    kernels.panels_at_once = DotI8I8::kPanels;
    kernels.min_gated_rows = 48;
    kernels.gated_bf16_bf16 = Gated<DotBf16Bf16>;
    kernels.gated_i8_i8 = Gated<DotI8I8>;
    kernels.linear_f32_f32 = LinearStreamed<DotF32F32>;
    kernels.linear_bf16_bf16 = LinearStreamed<DotBf16Bf16>;
    kernels.linear_i8_i8 = LinearStreamed<DotI8I8>;
    // Unpacking pays from some 96 rows on, on Zen 5.
    kernels.linear_i8_i4 = LinearI8I4<1, 64, kUnpackedBy<I4ToI8, DotI8I8>>;
    return kernels;
  }();
  return kKernels;
}

}  // namespace enginery
