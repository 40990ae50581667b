// SPDX-License-Identifier: Apache-2.0
//
// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3" (SC 2011). The random number of a draw is a function of (seed,
// sequence index, position) alone: it depends on nothing that was drawn before or beside it.
// tests/golden/philox.txt fixes it for every implementation.
#ifndef ENGINERY_SRC_SAMPLE_PHILOX_H_
#define ENGINERY_SRC_SAMPLE_PHILOX_H_

#include <array>
#include <cstdint>

namespace enginery {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

PhiloxCounter Philox4x32(PhiloxCounter counter, PhiloxKey key);

// Uniform in [0, 1), a multiple of 2^-53: key (low, high word of seed), counter (position,
// sequence_index, 0, 0); the first word gives the high bits, the second the low ones.
double UniformAt(uint64_t seed, uint32_t sequence_index, uint32_t position);

}  // namespace enginery

#endif  // ENGINERY_SRC_SAMPLE_PHILOX_H_
