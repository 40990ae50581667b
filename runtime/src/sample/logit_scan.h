// SPDX-License-Identifier: Apache-2.0
//
// Passes over a logits row of a large vocabulary, in lanes of the baseline instruction set: the
// same results on every machine.
#ifndef ENGINERY_SRC_SAMPLE_LOGIT_SCAN_H_
#define ENGINERY_SRC_SAMPLE_LOGIT_SCAN_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace enginery {

struct LogitMax {
  float value;       // -infinity when all are
  int32_t token_id;  // the lowest of those with the value
  bool is_valid;     // no NaN, no +infinity
};

// One pass. `logits` must not be empty.
LogitMax FindMax(std::span<const float> logits);

// exp(x) for x <= 0 (-infinity included) to 2 units in the last place; 0 below -87. The same bits
// on every machine, unlike a C library's.
float ExpNonPositive(float x);

inline constexpr size_t kWeightChunk = 256;

// weights[i] = exp((logits[i] - max) / temperature), and their sums per chunk of kWeightChunk in
// chunk_sums. Returns the sum of all. `max` must be finite, temperature > 0.
double ComputeWeights(std::span<const float> logits, float max, float temperature, float* weights,
                      double* chunk_sums);

// The logit at rank `k` (1-based, 1 <= k <= logits.size()) and how many with exactly this value are
// among the first k. `scratch` must hold logits.size() floats.
struct TopKBound {
  float value;
  size_t num_equal;
};
TopKBound FindTopK(std::span<const float> logits, size_t k, float* scratch);

}  // namespace enginery

#endif  // ENGINERY_SRC_SAMPLE_LOGIT_SCAN_H_
