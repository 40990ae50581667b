// SPDX-License-Identifier: Apache-2.0
#include "request_parameters.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/str_cat.h"
#include "problems.h"
#include "tensors.h"

namespace enginery::triton {
namespace {

// Longer names are no misspellings, and comparing them would cost what a client chooses.
constexpr size_t kMaxNameBytes = 64;

constexpr std::string_view kNoBeams = "beam search is not built";
constexpr std::string_view kNoDecay = "top_p does not decay; use top_p";
constexpr std::string_view kNoProcessor =
    "no Python runs between the model and the sampler; use logit_bias";

constexpr UnsupportedOption kUnsupported[] = {
    {"use_beam_search", "false", "beam search is not built; n > 1 draws independent sequences"},
    {"best_of", "1",
     "sequences are not ranked; ask for them with n and choose by cumulative_logprob"},
    {"beam_search_diversity_rate", "", kNoBeams},
    {"beam_width_array", "", kNoBeams},
    {"length_penalty", "1.0", "it belongs to beam search, which is not built"},
    {"early_stopping", "", "it belongs to beam search, which is not built"},
    {"no_repeat_ngram_size", "0", "not built; repetition_penalty and frequency_penalty are"},
    {"top_p_min", "", kNoDecay},
    {"top_p_reset_ids", "", kNoDecay},
    {"top_p_decay", "1.0", kNoDecay},
    {"pad_id", "", "requests are packed: nothing is padded"},
    {"logits_processor", "", kNoProcessor},
    {"apply_batched_logits_processor", "false", kNoProcessor},
    {"exclude_input_from_output", "true",
     "outputs never repeat the prompt; it is in RequestOutput.prompt_token_ids"},
    {"return_encoder_output", "false", "there are no encoder-decoder models"},
    {"additional_model_outputs", "", "an engine has one output, the logits"},
    {"lookahead_config", "", "speculative decoding is not built"},
    {"guided_decoding", "",
     "constrained decoding is not built, and a constraint that is not kept must not be accepted"},
    {"spaces_between_special_tokens", "false", "the text is what the tokenizer's decoder gives"},
    {"beam_width", "1", "beam search is not built; num_return_sequences draws several"},
};

// How many characters have to be put in, left out or replaced to make one name of the other.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row[b.size()];
}

bool IsOff(const UnsupportedOption& option, const OptionValue& value) {
  if (std::holds_alternative<std::monostate>(value)) return true;
  if (option.neutral.empty()) return false;
  return IsSame(value, FromJson(ParseJson(option.neutral)));
}

// What is wrong with a parameter of the layout `enginery`; "" when nothing is.
std::string Problem(const RequestParameter& parameter) {
  const auto option = std::ranges::find(kUnsupported, parameter.name, &UnsupportedOption::name);
  if (option != std::end(kUnsupported)) {
    if (IsOff(*option, parameter.value)) return "";
    return StrCat(option->name, " = ", Show(parameter.value), ": not supported: ", option->reason);
  }
  std::vector<std::string_view> names;
  for (const TensorSpec& spec : Inputs()) names.push_back(spec.name);
  return NoSuchOption(parameter.name, names);
}

}  // namespace

std::span<const UnsupportedOption> UnsupportedOptions() { return kUnsupported; }

void CheckParameters(std::span<const RequestParameter> parameters) {
  Problems problems("request");
  for (const RequestParameter& parameter : parameters) {
    if (IsServersOwn(parameter)) continue;
    if (std::string problem = Problem(parameter); !problem.empty()) problems.Add(problem);
  }
  problems.ThrowIfAny();
}

bool IsServersOwn(const RequestParameter& parameter) {
  return parameter.name == "id" || parameter.name.starts_with("triton_");
}

std::string NoSuchOption(const std::string& name, std::span<const std::string_view> names) {
  const std::string_view close = ClosestName(name, names);
  const std::string shown = Show(name);
  const std::string hint = close.empty() ? "" : StrCat("; did you mean ", close, "?");
  return StrCat(shown.substr(1, shown.size() - 2), ": there is no such option", hint);  // no quotes
}

std::string_view ClosestName(std::string_view name, std::span<const std::string_view> names) {
  std::string_view closest;
  if (name.size() > kMaxNameBytes) return closest;
  size_t smallest = name.size() / 3 + 1;
  for (const std::string_view candidate : names) {
    const size_t distance = EditDistance(name, candidate);
    if (distance >= smallest) continue;
    smallest = distance;
    closest = candidate;
  }
  return closest;
}

}  // namespace enginery::triton
