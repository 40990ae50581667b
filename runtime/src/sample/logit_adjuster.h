// SPDX-License-Identifier: Apache-2.0
//
// What changes logits before a token is drawn, in this order: repetition penalty (over prompt and
// output), presence and frequency penalties (over output), logit bias, and the bans: end tokens
// before min_tokens, and the token that would complete a bad sequence.
#ifndef ENGINERY_SRC_SAMPLE_LOGIT_ADJUSTER_H_
#define ENGINERY_SRC_SAMPLE_LOGIT_ADJUSTER_H_

#include <cstdint>
#include <span>

#include "sample/sampling_params.h"
#include "sample/token_counts.h"

namespace enginery {

// Will AdjustLogits change anything for the token after `num_output_tokens`?
bool NeedsAdjustment(const SamplingParams& params, int64_t num_output_tokens);

// `token_ids`: prompt, then output. `counts` is brought up to them. A banned token gets -infinity.
// A bad sequence may begin in the prompt.
void AdjustLogits(const SamplingParams& params, std::span<const int32_t> token_ids,
                  int64_t num_prompt_tokens, TokenCounts* counts, std::span<float> logits);

}  // namespace enginery

#endif  // ENGINERY_SRC_SAMPLE_LOGIT_ADJUSTER_H_
