// SPDX-License-Identifier: Apache-2.0
//
// How the tokens of a request are drawn: the checked fields of enginery_request, whose meaning and
// ranges stand in the C header.
#ifndef ENGINERY_SRC_SAMPLE_SAMPLING_PARAMS_H_
#define ENGINERY_SRC_SAMPLE_SAMPLING_PARAMS_H_

#include <cstdint>
#include <vector>

#include "enginery/enginery.h"

namespace enginery {

struct SamplingParams {
  float temperature = 1.0f;
  float top_p = 1.0f;
  float min_p = 0.0f;
  int32_t top_k = 0;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  int32_t num_logprobs = -1;
  uint64_t seed = 0;
  int64_t min_tokens = 0;
  std::vector<int32_t> end_token_ids;  // not drawn before min_tokens are out
  std::vector<std::vector<int32_t>> bad_token_sequences;
  std::vector<enginery_logit_bias> logit_bias;

  bool has_penalties() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }
};

}  // namespace enginery

#endif  // ENGINERY_SRC_SAMPLE_SAMPLING_PARAMS_H_
