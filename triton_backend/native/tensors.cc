// SPDX-License-Identifier: Apache-2.0
#include "tensors.h"

#include <algorithm>

namespace enginery::triton {
namespace {

using enum DataType;

constexpr TensorSpec kInputs[] = {
    {"text_input", kString, false},
    {"input_ids", kInt32, true},
    {"stream", kBool, false},
    {"streaming", kBool, false},
    {"max_tokens", kInt32, false, "max_tokens"},
    {"request_output_len", kInt32, false},
    {"min_tokens", kInt32, false, "min_tokens"},
    {"num_return_sequences", kInt32, false, "n"},
    {"temperature", kFp32, false, "temperature"},
    {"top_k", kInt32, false, "top_k"},
    {"top_p", kFp32, false, "top_p"},
    {"min_p", kFp32, false, "min_p"},
    {"seed", kUint64, false, "seed"},
    {"repetition_penalty", kFp32, false, "repetition_penalty"},
    {"presence_penalty", kFp32, false, "presence_penalty"},
    {"frequency_penalty", kFp32, false, "frequency_penalty"},
    {"stop_words", kString, true, "stop"},
    {"bad_words", kString, true, "bad"},
    {"stop_token_ids", kInt32, true, "stop_token_ids"},
    {"end_id", kInt32, false, "end_id"},
    {"ignore_eos", kBool, false, "ignore_eos"},
    {"sampling_parameters", kString, false},
    {"exclude_input_in_output", kBool, false},
    {"return_log_probs", kBool, false},
    {"return_perf_metrics", kBool, false},
    {"priority", kInt32, false},
    {"timeout_ms", kInt64, false},
};

constexpr TensorSpec kOutputs[] = {
    {"text_output", kString, false, "", false},
    {"output_ids", kInt32, true, "", false},
    {"sequence_index", kInt32, false, "", false},
    {"finish_reason", kString, false, "", false},
    {"output_log_probs", kFp32, true},
    {"cum_log_probs", kFp32, false},
    {"num_input_tokens", kInt32, false},
    {"num_output_tokens", kInt32, false},
    {"num_reused_tokens", kInt32, false},
    {"arrival_time_ns", kInt64, false},
    {"first_scheduled_time_ns", kInt64, false},
    {"first_token_time_ns", kInt64, false},
    {"last_token_time_ns", kInt64, false},
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
    case kUint64:
      return "UINT64";
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
