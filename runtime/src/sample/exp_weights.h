// SPDX-License-Identifier: Apache-2.0
//
// exp over a row of logits: where a draw spends its time. One variant per instruction set, all with
// the same result bit by bit.
#ifndef ENGINERY_SRC_SAMPLE_EXP_WEIGHTS_H_
#define ENGINERY_SRC_SAMPLE_EXP_WEIGHTS_H_

#include <cstddef>
#include <vector>

namespace enginery {

// weights[i] = exp((logits[i] - max) / temperature) for `count` logits; returns their sum. Weight i
// is added in lane i % 16; then lanes 8 apart are added, then 4 apart, then neighbours.
using ExpWeights = double (*)(const float* logits, size_t count, float max, float temperature,
                              float* weights);

// Those that this machine runs, the fastest first.
std::vector<ExpWeights> ExpWeightsVariants();

}  // namespace enginery

#endif  // ENGINERY_SRC_SAMPLE_EXP_WEIGHTS_H_
