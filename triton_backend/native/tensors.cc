// SPDX-License-Identifier: Apache-2.0
#include "tensors.h"

#include <algorithm>

namespace enginery::triton {
namespace {

using enum DataType;

constexpr TensorSpec kInputs[] = {
    {"text_input", kString, kOne},
    {"input_ids", kInt32, kAny},
    {"stream", kBool, kOne},
    {"streaming", kBool, kOne},
    {"max_tokens", kInt32, kOne, "max_tokens"},
    {"request_output_len", kInt32, kOne},
    {"min_tokens", kInt32, kOne, "min_tokens"},
    {"num_return_sequences", kInt32, kOne, "n"},
    {"temperature", kFp32, kOne, "temperature"},
    {"top_k", kInt32, kOne, "top_k"},
    {"top_p", kFp32, kOne, "top_p"},
    {"min_p", kFp32, kOne, "min_p"},
    {"seed", kUint64, kOne, "seed"},
    {"repetition_penalty", kFp32, kOne, "repetition_penalty"},
    {"presence_penalty", kFp32, kOne, "presence_penalty"},
    {"frequency_penalty", kFp32, kOne, "frequency_penalty"},
    {"stop_words", kString, kAny, "stop"},
    {"bad_words", kString, kAny, "bad"},
    {"stop_token_ids", kInt32, kAny, "stop_token_ids"},
    {"include_stop_token", kBool, kOne, "include_stop_token"},
    {"end_id", kInt32, kOne, "end_id"},
    {"ignore_eos", kBool, kOne, "ignore_eos"},
    {"logit_bias_ids", kInt32, kAny, "logit_bias"},
    {"logit_bias_values", kFp32, kAny},
    {"logprobs", kInt32, kOne, "logprobs"},
    {"sampling_parameters", kString, kOne},
    {"exclude_input_in_output", kBool, kOne},
    {"return_log_probs", kBool, kOne},
    {"prompt_logprobs", kInt32, kOne, "prompt_logprobs"},
    {"return_perf_metrics", kBool, kOne},
    {"priority", kInt32, kOne},
    {"timeout_ms", kInt64, kOne},
};

constexpr TensorSpec kOutputs[] = {
    {"text_output", kString, kOne, "", false},
    {"output_ids", kInt32, kAny, "", false},
    {"sequence_index", kInt32, kOne, "", false},
    {"finish_reason", kString, kOne, "", false},
    {"output_log_probs", kFp32, kAny},
    {"cum_log_probs", kFp32, kOne},
    {"top_token_ids", kInt32, kAny},
    {"top_log_probs", kFp32, kAny},
    {"prompt_log_probs", kFp32, kAny},
    {"prompt_top_token_ids", kInt32, kAny},
    {"prompt_top_log_probs", kFp32, kAny},
    {"num_input_tokens", kInt32, kOne},
    {"num_output_tokens", kInt32, kOne},
    {"num_reused_tokens", kInt32, kOne},
    {"arrival_time_ns", kInt64, kOne},
    {"first_scheduled_time_ns", kInt64, kOne},
    {"first_token_time_ns", kInt64, kOne},
    {"last_token_time_ns", kInt64, kOne},
};

}  // namespace

std::string_view DataTypeName(DataType type) {
  switch (type) {
    case kString:
      return "STRING";
    case kInt32:
      return "INT32";
    case kInt64:
      return "INT64";
    case kUint8:
      return "UINT8";
    case kUint64:
      return "UINT64";
    case kFp16:
      return "FP16";
    case kFp32:
      return "FP32";
    case kBool:
      return "BOOL";
    case kOther:
      break;
  }
  return "another type";
}

std::span<const TensorSpec> Inputs() { return kInputs; }
std::span<const TensorSpec> Outputs() { return kOutputs; }

const TensorSpec* FindTensor(std::span<const TensorSpec> specs, std::string_view name) {
  const auto found = std::ranges::find(specs, name, &TensorSpec::name);
  return found == specs.end() ? nullptr : &*found;
}

std::string TensorNames(std::span<const TensorSpec> specs) {
  std::string names;
  for (const TensorSpec& spec : specs) names.append(names.empty() ? "" : ", ").append(spec.name);
  return names;
}

}  // namespace enginery::triton
