// SPDX-License-Identifier: Apache-2.0
//
// Passes over a logits row of a large vocabulary, in the widest lanes where the arithmetic is what
// takes time: the same results on every machine.
#ifndef ENGINERY_SRC_SAMPLE_LOGIT_SCAN_H_
#define ENGINERY_SRC_SAMPLE_LOGIT_SCAN_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
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

// log(exp(logits[0]) + exp(logits[1]) + ...), of which `max` is the largest. NaN where a logit is
// NaN or +infinity, or all are -infinity.
double LogSumExp(std::span<const float> logits, float max);

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

// Calls body(i) for every logit that is at least `bound`, in order. Fast where few are.
template <class Body>
void ForEachAtLeast(std::span<const float> logits, float bound, const Body& body) {
  using Floats = float __attribute__((vector_size(16)));
  constexpr size_t kGroup = 16;
  size_t i = 0;
  for (; i + kGroup <= logits.size(); i += kGroup) {
    Floats x[4];
    std::memcpy(x, &logits[i], sizeof x);
    const auto found = (x[0] >= bound) | (x[1] >= bound) | (x[2] >= bound) | (x[3] >= bound);
    uint64_t halves[2];
    std::memcpy(halves, &found, sizeof halves);
    if ((halves[0] | halves[1]) == 0) continue;
    for (size_t j = i; j < i + kGroup; ++j) {
      if (logits[j] >= bound) body(j);
    }
  }
  for (; i < logits.size(); ++i) {
    if (logits[i] >= bound) body(i);
  }
}

}  // namespace enginery

#endif  // ENGINERY_SRC_SAMPLE_LOGIT_SCAN_H_
