// SPDX-License-Identifier: Apache-2.0
#include "kernels/dots_avx512.h"
#include "kernels/lanes_avx512.h"

// What follows is written on the above.
#include "kernels/attention_amx.h"
#include "kernels/linear_amx.h"
#include "kernels/linear_i4_avx512.h"
#include "kernels/linear_unpacked.h"
#include "kernels/table.h"

namespace enginery {

const Kernels& AmxKernels() {
  static constexpr Kernels kKernels = [] {
    Kernels kernels = MakeKernels("amx");
    kernels.linear_bf16_bf16 = LinearTiles<TileBf16Bf16>;
    kernels.linear_i8_i8 = LinearI8I8;
    kernels.linear_i8_i4 = LinearI8I4<4, 3, LinearUnpacked<I4ToI8, LinearI8I8>>;
    // Few rows too: tiles add in another order than vectors.
    kernels.linear_bf16_e4m3 = LinearUnpacked<E4M3ToBf16, LinearTiles<TileBf16Bf16>>;
    kernels.linear_bf16_i4 = LinearUnpacked<I4ToBf16, LinearTiles<TileBf16Bf16>>;
    kernels.linear_e4m3_i4 = LinearUnpacked<I4ToE4M3, LinearTiles<TileBf16Bf16>>;
    kernels.gated_bf16_bf16 = GatedTiles<TileBf16Bf16>;
    kernels.gated_i8_i8 = GatedTiles<TileI8I8>;
    kernels.attention_bf16 = AttentionAmx<CacheBf16>;
    kernels.attention_i8 = AttentionAmx<CacheI8>;
    kernels.attention_e4m3 = AttentionAmx<CacheE4M3>;
    return kernels;
  }();
  return kKernels;
}

}  // namespace enginery
