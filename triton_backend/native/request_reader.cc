// SPDX-License-Identifier: Apache-2.0
#include "request_reader.h"

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/str_cat.h"
#include "json.h"

namespace enginery::triton {
namespace {

// The inputs that a request has, by name.
class Values {
 public:
  explicit Values(std::span<const InputTensor> tensors) {
    for (const InputTensor& tensor : tensors) {
      const TensorSpec* const spec = FindTensor(Inputs(), tensor.name);
      if (spec == nullptr) RefuseInput(tensor.name, "the model has no such input");
      if (!values_.try_emplace(spec->name, ReadValue(*spec, tensor)).second) {
        RefuseInput(tensor.name, "is given twice");
      }
    }
    JoinBiases();
  }

  // NULL when it was not given.
  const OptionValue* Find(std::string_view name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? nullptr : &found->second;
  }

  // Of an input that has two names.
  const OptionValue* FindEither(std::string_view name, std::string_view alias) const {
    const OptionValue* const first = Find(name);
    const OptionValue* const second = Find(alias);
    if (first != nullptr && second != nullptr && *first != *second) {
      throw Error(ENGINERY_INVALID_ARGUMENT,
                  StrCat(name, " = ", Show(*first), ", ", alias, " = ", Show(*second),
                         ": two names of one thing; give one of them"));
    }
    return first == nullptr ? second : first;
  }

  bool IsTrue(std::string_view name) const {
    const OptionValue* const value = Find(name);
    return value != nullptr && std::get<bool>(*value);
  }

 private:
  // The two inputs become the value of logit_bias_ids, which is that of the option.
  void JoinBiases() {
    const auto ids = TakeList<int32_t>("logit_bias_ids");
    const auto biases = TakeList<float>("logit_bias_values");
    if (!ids && !biases) return;
    const size_t num_ids = ids ? ids->size() : 0;
    const size_t num_biases = biases ? biases->size() : 0;
    if (num_ids != num_biases) {
      throw Error(ENGINERY_INVALID_ARGUMENT,
                  StrCat("logit_bias_ids, logit_bias_values: have ", num_ids, " and ", num_biases,
                         " values; give one value per token id"));
    }
    TokenBiases joined;
    for (size_t i = 0; i < num_ids; ++i) {
      if (joined.emplace((*ids)[i], (*biases)[i]).second) continue;
      RefuseInput("logit_bias_ids", "has a token id twice; give each once");
    }
    values_.emplace("logit_bias_ids", std::move(joined));
  }

  template <class Number>
  std::optional<std::vector<Number>> TakeList(std::string_view name) {
    auto node = values_.extract(name);
    if (node.empty()) return std::nullopt;
    return std::get<std::vector<Number>>(std::move(node.mapped()));
  }

  std::map<std::string_view, OptionValue> values_;
};

std::vector<int32_t> ReadPrompt(const Values& values) {
  const OptionValue* const ids = values.Find("input_ids");
  if (values.Find("text_input") != nullptr) {
    if (ids != nullptr) {
      throw Error(ENGINERY_INVALID_ARGUMENT,
                  "text_input, input_ids: both are given; give one of them");
    }
    RefuseInput(
        "text_input",
        "the native backend has no tokenizer; give token ids as input_ids, or serve with the "
        "Python backend (enginery serve --backend python)");
  }
  if (ids == nullptr) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                "text_input, input_ids: neither is given; give input_ids, the prompt as token ids");
  }
  return std::get<std::vector<int32_t>>(*ids);
}

std::string OptionNames() {
  std::string names;
  for (const TensorSpec& spec : Inputs()) {
    if (!spec.option.empty()) names += StrCat(names.empty() ? "" : ", ", spec.option);
  }
  return names;
}

Json ParseObject(std::string_view text) {
  Json json;
  try {
    json = ParseJson(text);
  } catch (const Error& error) {
    RefuseInput("sampling_parameters", StrCat("is not JSON: ", error.what()));
  }
  if (!json.is_object()) RefuseInput("sampling_parameters", "must be a JSON object");
  return json;
}

void ReadJsonOptions(const Values& values, GenerationRequest& request) {
  const OptionValue* const text = values.Find("sampling_parameters");
  if (text == nullptr) return;
  const Json json = ParseObject(std::get<std::string>(*text));
  for (const auto& [name, value] : json.members) {
    const auto refuse = [&name = name](std::string_view problem) {
      RefuseInput("sampling_parameters", StrCat(name, ": ", problem));
    };
    bool is_option = false;
    for (const TensorSpec& spec : Inputs()) {
      if (spec.option != name) continue;
      is_option = true;
      const bool has_alias = name == "max_tokens" && values.Find("request_output_len") != nullptr;
      if (has_alias || values.Find(spec.name) != nullptr) {
        refuse("is given by an input too; give one of them");
      }
    }
    if (!is_option) refuse(StrCat("there is no such option; there are ", OptionNames()));
    try {
      request.SetOption(name, FromJson(value));
    } catch (const Error& error) {
      refuse(error.what());
    }
  }
}

void ReadOptions(const Values& values, GenerationRequest& request) {
  for (const TensorSpec& spec : Inputs()) {
    if (spec.option.empty()) continue;
    const OptionValue* const value = spec.option == "max_tokens"
                                         ? values.FindEither("max_tokens", "request_output_len")
                                         : values.Find(spec.name);
    if (value != nullptr) request.SetOption(spec.option, *value);
  }
  ReadJsonOptions(values, request);
}

}  // namespace

GenerationRequest ReadRequest(std::span<const InputTensor> inputs) {
  const Values values(inputs);
  GenerationRequest request;
  request.prompt_token_ids = ReadPrompt(values);
  ReadOptions(values, request);
  if (const OptionValue* streams = values.FindEither("stream", "streaming")) {
    request.fields.streaming = std::get<bool>(*streams) ? 1 : 0;
  }
  const OptionValue* const excludes = values.Find("exclude_input_in_output");
  request.responses.repeats_prompt = excludes != nullptr && !std::get<bool>(*excludes);
  request.responses.returns_log_probs =
      request.fields.num_logprobs >= 0 || values.IsTrue("return_log_probs");
  request.responses.returns_top_tokens = request.fields.num_logprobs > 0;
  request.responses.returns_prompt_top_tokens = request.fields.num_prompt_logprobs > 0;
  request.responses.returns_perf_metrics = values.IsTrue("return_perf_metrics");
  if (const OptionValue* priority = values.Find("priority")) {
    request.fields.priority = static_cast<int32_t>(std::get<int64_t>(*priority));
  }
  if (const OptionValue* timeout = values.Find("timeout_ms")) {
    request.fields.timeout_ms = std::get<int64_t>(*timeout);
  }
  return request;
}

}  // namespace enginery::triton
