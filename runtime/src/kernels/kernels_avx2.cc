// SPDX-License-Identifier: Apache-2.0
#include "kernels/dots_avx2.h"
#include "kernels/lanes_avx2.h"

namespace enginery {
namespace {

// Register tiles of attention: rows by vectors of 16 tokens, rows by vectors of 16 dimensions.
constexpr int kScoreRows = 4, kScoreVectors = 1;
constexpr int kValueRows = 2, kValueVectors = 2;

}  // namespace
}  // namespace enginery

#include "kernels/table.h"

namespace enginery {

const Kernels& Avx2Kernels() {
  static constexpr Kernels kKernels = MakeKernels("avx2");
  return kKernels;
}

}  // namespace enginery
