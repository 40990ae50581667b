// SPDX-License-Identifier: Apache-2.0
#include "generation_request.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/str_cat.h"

namespace enginery::triton {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxLogprobs = 20;

struct RealOption {
  std::string_view name;
  float enginery_request::* field;
};
constexpr RealOption kReals[] = {
    {"temperature", &enginery_request::temperature},
    {"top_p", &enginery_request::top_p},
    {"min_p", &enginery_request::min_p},
    {"repetition_penalty", &enginery_request::repetition_penalty},
    {"presence_penalty", &enginery_request::presence_penalty},
    {"frequency_penalty", &enginery_request::frequency_penalty},
};

bool IsNull(const OptionValue& value) { return std::holds_alternative<std::monostate>(value); }

int32_t AsNumLogprobs(std::string_view option, const OptionValue& value) {
  return static_cast<int32_t>(
      AsInteger(option, value, 0, kMaxLogprobs, "null or an integer in 0 .. 20"));
}

}  // namespace

GenerationRequest::GenerationRequest() {
  enginery_request_init(&fields, sizeof fields);
  fields.streaming = 0;
}

bool GenerationRequest::SetOption(std::string_view option, const OptionValue& value) {
  for (const RealOption& real : kReals) {
    if (real.name != option) continue;
    fields.*real.field = AsReal(option, value);
    return true;
  }
  if (option == "max_tokens") {
    fields.max_tokens = AsInteger(option, value, 0, INT64_MAX, "an integer >= 0");
  } else if (option == "min_tokens") {
    fields.min_tokens = AsInteger(option, value, 0, INT64_MAX, "an integer in 0 .. max_tokens");
  } else if (option == "n") {
    fields.num_return_sequences =
        static_cast<int32_t>(AsInteger(option, value, 1, kMaxInt32, "an integer >= 1"));
  } else if (option == "top_k") {
    fields.top_k = IsNull(value) ? 0
                                 : static_cast<int32_t>(AsInteger(option, value, 0, kMaxInt32,
                                                                  "0 (all tokens) or >= 1"));
  } else if (option == "seed") {
    fields.seed = IsNull(value) ? 0 : AsSeed(option, value);
  } else if (option == "stop") {
    stop_texts_ = AsTexts(option, value);
  } else if (option == "bad") {
    if (!AsTexts(option, value).empty()) {
      throw Error(ENGINERY_INVALID_ARGUMENT,
                  StrCat("bad_words = ", Show(value),
                         ": words need a tokenizer, which the native backend lacks; serve with "
                         "the Python backend (enginery serve --backend python)"));
    }
  } else if (option == "stop_token_ids") {
    stop_token_ids_ = AsTokenIds(option, value);
  } else if (option == "end_id") {
    if (IsNull(value)) return true;
    end_id_ = static_cast<int32_t>(
        AsInteger(option, value, -1, kMaxInt32, "-1 (never ends) or a token id"));
    fields.ignore_eos = 1;
  } else if (option == "ignore_eos") {
    // end_id takes the place of the engine's own end tokens, whatever this says.
    fields.ignore_eos |= AsBool(option, value) ? 1 : 0;
  } else if (option == "include_stop_token") {
    fields.include_stop = AsBool(option, value) ? 2 : 0;
  } else if (option == "logit_bias") {
    for (const auto& [token_id, bias] : AsTokenBiases(option, value)) {
      logit_bias.push_back({token_id, bias});
    }
  } else if (option == "logprobs") {
    if (!IsNull(value)) fields.num_logprobs = AsNumLogprobs(option, value);
  } else if (option == "prompt_logprobs") {
    if (IsNull(value)) return true;
    fields.return_prompt_logprobs = 1;
    fields.num_prompt_logprobs = AsNumLogprobs(option, value);
  } else if (option == "return_context_logits") {
    fields.return_context_logits = AsBool(option, value) ? 1 : 0;
  } else if (option == "return_generation_logits") {
    fields.return_generation_logits = AsBool(option, value) ? 1 : 0;
  } else {
    return false;
  }
  return true;
}

enginery_request GenerationRequest::View() {
  std::vector<int32_t>& stops = stop_token_ids_;
  if (end_id_ >= 0) {
    stops.push_back(end_id_);
    end_id_ = -1;
  }
  stop_views_.clear();
  for (const std::string& text : stop_texts_) stop_views_.push_back({text.data(), text.size()});
  bad_views_.clear();
  for (const std::vector<int32_t>& bad : bad_token_sequences) {
    bad_views_.push_back({bad.data(), bad.size()});
  }
  enginery_request view = fields;
  view.prompt_token_ids = prompt_token_ids.data();
  view.num_prompt_tokens = prompt_token_ids.size();
  view.stop_token_ids = stops.data();
  view.num_stop_token_ids = stops.size();
  view.stop_strings = stop_views_.data();
  view.num_stop_strings = stop_views_.size();
  view.bad_token_sequences = bad_views_.data();
  view.num_bad_token_sequences = bad_views_.size();
  view.logit_bias = logit_bias.data();
  view.num_logit_bias = logit_bias.size();
  if (responses.returns_log_probs) view.num_logprobs = std::max(0, fields.num_logprobs);
  return view;
}

}  // namespace enginery::triton
