// SPDX-License-Identifier: Apache-2.0
#include "kernels/dots_avx512.h"
#include "kernels/lanes_avx512.h"

namespace enginery {
namespace {

// Register tiles of attention: rows by vectors of 16 tokens, rows by vectors of 16 dimensions.
constexpr int kScoreRows = 8, kScoreVectors = 2;
constexpr int kValueRows = 6, kValueVectors = 4;

}  // namespace
}  // namespace enginery

#include "kernels/linear_i4.h"
#include "kernels/linear_i4_avx512.h"
#include "kernels/table.h"

namespace enginery {

const Kernels& Avx512Kernels() {
  static constexpr Kernels kKernels = [] {
    Kernels kernels = MakeKernels("avx512");
    kernels.linear_i8_i4 = LinearI8I4Avx512<Linear<DotI8I8>>;
    return kernels;
  }();
  return kKernels;
}

}  // namespace enginery
