// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_GENERATION_REQUEST_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_GENERATION_REQUEST_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "enginery/enginery.h"
#include "option_value.h"

namespace enginery::triton {

// What the responses of a request show.
struct ResponseOptions {
  bool repeats_prompt = false;
  bool returns_log_probs = false;
  bool returns_top_tokens = false;  // with their log probabilities
  bool returns_prompt_top_tokens = false;
  bool returns_perf_metrics = false;
};

// One request, ready for the runtime: what needs the engine to be checked, submit checks.
class GenerationRequest {
 public:
  GenerationRequest();

  // Sets an option in the name that SamplingParams has for it. False when there is none of that
  // name. Throws Error (INVALID_ARGUMENT) that names the option, the value and what is accepted.
  bool SetOption(std::string_view option, const OptionValue& value);

  // For enginery_runtime_submit; points into this object.
  enginery_request View();

  std::vector<int32_t> prompt_token_ids;
  std::vector<std::vector<int32_t>> bad_token_sequences;
  std::vector<enginery_logit_bias> logit_bias;
  ResponseOptions responses;
  // What has no pointers and no option: priority, timeout_ms, streaming.
  enginery_request fields;

 private:
  std::vector<int32_t> stop_token_ids_;
  int32_t end_id_ = -1;
  std::vector<std::string> stop_texts_;
  std::vector<enginery_string_view> stop_views_;
  std::vector<enginery_token_sequence> bad_views_;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_GENERATION_REQUEST_H_
