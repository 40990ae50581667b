// SPDX-License-Identifier: Apache-2.0
#include "kernels/dots_portable.h"
#include "kernels/lanes_portable.h"

// What follows is written on the above.
#include "kernels/table.h"

namespace enginery {

const Kernels& PortableKernels() {
  static constexpr Kernels kKernels = MakeKernels("portable");
  return kKernels;
}

}  // namespace enginery
