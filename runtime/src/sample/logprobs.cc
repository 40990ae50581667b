// SPDX-License-Identifier: Apache-2.0
#include <cstddef>

#include "sample/logit_scan.h"
#include "sample/sampler.h"

namespace enginery {

void ComputeLogprobs(std::span<const float> logits, int32_t token_id, int32_t num_best,
                     enginery_logprob* out) {
  const double log_sum = LogSumExp(logits, FindMax(logits).value);
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(id)]) - log_sum);
  };
  out[0] = {token_id, logprob(token_id)};
  // The best so far, in rank; `logprob` holds the logit until the end.
  enginery_logprob* best = out + 1;
  const auto wanted = static_cast<size_t>(num_best);
  size_t num_found = 0;
  for (size_t i = 0; i < logits.size() && wanted > 0; ++i) {
    if (num_found == wanted && !(logits[i] > best[wanted - 1].logprob)) continue;
    size_t place = num_found < wanted ? num_found++ : wanted - 1;
    for (; place > 0 && logits[i] > best[place - 1].logprob; --place) best[place] = best[place - 1];
    best[place] = {static_cast<int32_t>(i), logits[i]};
  }
  for (size_t i = 0; i < num_found; ++i) best[i].logprob = logprob(best[i].token_id);
}

}  // namespace enginery
