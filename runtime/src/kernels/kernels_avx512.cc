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

#include "kernels/table.h"

namespace enginery {

const Kernels& Avx512Kernels() {
  static constexpr Kernels kKernels = MakeKernels("avx512");
  return kKernels;
}

}  // namespace enginery
