// SPDX-License-Identifier: Apache-2.0
#include "sample/logit_adjuster.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

namespace enginery {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

void Penalize(const SamplingParams& params, const TokenCounts& counts, std::span<float> logits) {
  for (const TokenCounts::Entry& entry : counts.entries()) {
    float& logit = logits[static_cast<size_t>(entry.token_id)];
    // Keskar et al. 2019 divide; a negative logit is multiplied, so that both become less likely.
    logit = logit > 0.0f ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (entry.num_in_output == 0) continue;
    logit -= params.presence_penalty;
    logit -= params.frequency_penalty * static_cast<float>(entry.num_in_output);
  }
}

bool EndsWith(std::span<const int32_t> token_ids, std::span<const int32_t> end) {
  return end.size() <= token_ids.size() && std::equal(end.rbegin(), end.rend(), token_ids.rbegin());
}

}  // namespace

bool NeedsAdjustment(const SamplingParams& params, int64_t num_output_tokens) {
  return params.has_penalties() || !params.logit_bias.empty() ||
         !params.bad_token_sequences.empty() || num_output_tokens < params.min_tokens;
}

void AdjustLogits(const SamplingParams& params, std::span<const int32_t> token_ids,
                  int64_t num_prompt_tokens, TokenCounts* counts, std::span<float> logits) {
  if (params.has_penalties()) {
    counts->Update(token_ids, num_prompt_tokens);
    Penalize(params, *counts, logits);
  }
  for (const enginery_logit_bias& bias : params.logit_bias) {
    logits[static_cast<size_t>(bias.token_id)] += bias.bias;
  }
  if (static_cast<int64_t>(token_ids.size()) - num_prompt_tokens < params.min_tokens) {
    for (const int32_t id : params.end_token_ids) logits[static_cast<size_t>(id)] = kBanned;
  }
  for (const std::vector<int32_t>& bad : params.bad_token_sequences) {
    const std::span<const int32_t> sequence(bad);
    if (EndsWith(token_ids, sequence.first(sequence.size() - 1))) {
      logits[static_cast<size_t>(sequence.back())] = kBanned;
    }
  }
}

}  // namespace enginery
