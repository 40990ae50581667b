// SPDX-License-Identifier: Apache-2.0
#include "kernels/dots_avx2.h"
#include "kernels/lanes_avx2.h"

// What follows is written on the above.
#include "kernels/table.h"

namespace enginery {
namespace {

void LinearI8I8(const LinearArgs& args) {
  if (args.num_rows == 1) {
    Linear<DotI8I8Row>(args);
  } else {
    Linear<DotI8I8>(args);
  }
}

}  // namespace

const Kernels& Avx2Kernels() {
  static constexpr Kernels kKernels = [] {
    Kernels kernels = MakeKernels("avx2");
    kernels.linear_i8_i8 = LinearI8I8;
    kernels.linear_i8_i4 = LinearI8I4<LinearI8I8>;
    return kernels;
  }();
  return kKernels;
}

}  // namespace enginery
