// SPDX-License-Identifier: Apache-2.0
#include "kernels/dots_portable.h"
#include "kernels/lanes_portable.h"

namespace enginery {
namespace {

// Register tiles of attention: rows by vectors of 16 tokens, rows by vectors of 16 dimensions.
constexpr int kScoreRows = 2, kScoreVectors = 1;
constexpr int kValueRows = 1, kValueVectors = 1;

}  // namespace
}  // namespace enginery

#include "kernels/table.h"

namespace enginery {

const Kernels& PortableKernels() {
  static constexpr Kernels kKernels = MakeKernels("portable");
  return kKernels;
}

}  // namespace enginery
