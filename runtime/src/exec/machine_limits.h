// SPDX-License-Identifier: Apache-2.0
//
// What this machine does at most in what the kernels do: read memory, multiply in registers.
#ifndef ENGINERY_SRC_EXEC_MACHINE_LIMITS_H_
#define ENGINERY_SRC_EXEC_MACHINE_LIMITS_H_

#include <cstdint>

#include "enginery/enginery.h"
#include "kernels/kernels.h"

namespace enginery {

// As enginery_measure_limits; takes at most half of the memory that is available. Throws
// Error(ENGINERY_OUT_OF_MEMORY).
enginery_machine_limits MeasureLimits(const Kernels& kernels, int num_threads,
                                      uint64_t available_bytes);

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_MACHINE_LIMITS_H_
