// SPDX-License-Identifier: Apache-2.0
#include "row_reader.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/str_cat.h"
#include "base/utf8.h"
#include "native/problems.h"
#include "refusals.h"
#include "tensors.h"
#include "word_list.h"

namespace enginery::triton::trtllm {
namespace {

using TokenIds = std::vector<int32_t>;

TokenIds ReadPrompt(const InputRows& inputs, size_t index) {
  TokenIds token_ids = *inputs.Get<TokenIds>("input_ids", index);
  const auto length = inputs.Get<int64_t>("input_lengths", index);
  if (!length) RefuseInput("input_lengths", "is missing; it says how much of input_ids counts");
  if (*length < 0 || static_cast<size_t>(*length) > token_ids.size()) {
    throw Error(ENGINERY_INVALID_ARGUMENT, StrCat("input_lengths = ", *length, ": input_ids has ",
                                                  token_ids.size(), " tokens in the row"));
  }
  token_ids.resize(static_cast<size_t>(*length));
  return token_ids;
}

// TensorRT-LLM's reading of the two: neither is greedy, top-k alone draws among all k.
void SetTop(const InputRows& inputs, size_t index, GenerationRequest& request) {
  const double top_p = inputs.Get<double>("runtime_top_p", index).value_or(0);
  const int64_t top_k = inputs.Get<int64_t>("runtime_top_k", index).value_or(0);
  const bool has_top_p = !(top_p <= 0);
  request.SetOption("top_k", top_k == 0 && !has_top_p ? 1 : top_k);
  request.SetOption("top_p", has_top_p ? top_p : 1.0);
}

std::vector<TokenIds> ReadWords(const InputRows& inputs, std::string_view name, size_t index) {
  const std::optional<InputTensor> tensor = inputs.Find(name, index);
  if (!tensor) return {};
  if (tensor->shape.size() != 2 || tensor->shape[0] != 2) {
    RefuseInput(name, StrCat("has shape ", ShowShape(tensor->shape), "; must be [2, n]"));
  }
  return ReadWordList(name, ReadNumbers<int32_t>(*tensor));
}

bool IsTrue(const InputRows& inputs, std::string_view name, size_t index) {
  return inputs.Get<bool>(name, index).value_or(false);
}

// A model that answers each request once has nowhere to put what comes before, or besides.
void CheckAnswersOnce(const std::vector<Row>& rows) {
  Problems problems("the model is served with decoupled_mode false, one response a request");
  bool is_streaming = false;
  int32_t num_sequences = 1;
  for (const Row& row : rows) {
    is_streaming |= row.request.fields.streaming != 0;
    num_sequences = std::max(num_sequences, row.request.fields.num_return_sequences);
  }
  if (rows.size() > 1) problems.Add(StrCat("input_ids: has ", rows.size(), " rows; give one"));
  if (is_streaming) problems.Add("streaming = True: needs several responses");
  if (num_sequences > 1) problems.Add("num_return_sequences: must be 1");
  problems.ThrowIfAny();
}

}  // namespace

std::vector<Row> RowReader::Read(std::span<const InputTensor> inputs) const {
  RefuseUnsupported(inputs);
  const InputRows by_row(inputs);
  std::vector<Row> rows;
  for (size_t i = 0; i < by_row.size(); ++i) {
    GenerationRequest request = ReadRequest(by_row, i);
    auto writer = std::make_unique<RowWriter>(ReadOptions(by_row, i, request), engine_);
    rows.push_back({std::move(request), std::move(writer)});
  }
  if (!is_decoupled_) CheckAnswersOnce(rows);
  return rows;
}

GenerationRequest RowReader::ReadRequest(const InputRows& inputs, size_t index) const {
  GenerationRequest request;
  request.prompt_token_ids = ReadPrompt(inputs, index);
  for (const TensorSpec& spec : Inputs()) {
    // A bias is no single value: SetBias reads it.
    if (spec.option.empty() || spec.dims != kOne) continue;
    const std::optional<InputTensor> tensor = inputs.Find(spec.name, index);
    if (tensor) request.SetOption(spec.option, ReadValue(spec, *tensor));
  }
  if (const auto end_id = inputs.Get<int64_t>("end_id", index)) {
    request.SetOption("end_id", *end_id);
  }
  SetTop(inputs, index, request);
  SetBias(inputs, index, request);
  request.bad_token_sequences = ReadWords(inputs, "bad_words_list", index);
  SetStops(inputs, index, request);
  request.fields.streaming = IsTrue(inputs, "streaming", index) ? 1 : 0;
  if (IsTrue(inputs, "return_log_probs", index)) request.SetOption("logprobs", int64_t{0});
  return request;
}

RowOptions RowReader::ReadOptions(const InputRows& inputs, size_t index,
                                  const GenerationRequest& request) const {
  RowOptions options;
  options.is_streaming = request.fields.streaming != 0;
  const bool excludes_input =
      inputs.Get<bool>("exclude_input_in_output", index).value_or(excludes_input_);
  if (!excludes_input && !options.is_streaming) options.repeated_prompt = request.prompt_token_ids;
  options.end_token_ids = engine_.eos_token_ids;
  if (const auto end_id = inputs.Get<int64_t>("end_id", index)) {
    options.end_token_ids = {static_cast<int32_t>(*end_id)};
  }
  if (inputs.size() > 1) options.batch_index = static_cast<int32_t>(index);
  options.has_sequences = request.fields.num_return_sequences > 1;
  options.returns_log_probs = request.fields.num_logprobs >= 0;
  options.returns_generation_logits = request.fields.return_generation_logits != 0;
  options.returns_perf_metrics = IsTrue(inputs, "return_perf_metrics", index);
  options.returns_num_input_tokens = IsTrue(inputs, "return_num_input_tokens", index);
  options.returns_num_output_tokens = IsTrue(inputs, "return_num_output_tokens", index);
  return options;
}

void RowReader::SetBias(const InputRows& inputs, size_t index, GenerationRequest& request) const {
  const std::optional<InputTensor> tensor = inputs.Find("embedding_bias", index);
  if (!tensor) return;
  const std::vector<float> dense = ReadNumbers<float>(*tensor);
  if (dense.empty()) return;
  if (dense.size() != engine_.vocab_size) {
    RefuseInput("embedding_bias",
                StrCat("has ", dense.size(), " values; the vocabulary has ", engine_.vocab_size));
  }
  for (size_t id = 0; id < dense.size(); ++id) {
    if (dense[id] != 0) request.logit_bias.push_back({static_cast<int32_t>(id), dense[id]});
  }
}

// Stop words by their texts, which the model may spell with other tokens as well. Special tokens,
// and single ones that are no whole characters, are matched as ids.
void RowReader::SetStops(const InputRows& inputs, size_t index, GenerationRequest& request) const {
  constexpr std::string_view kName = "stop_words_list";
  std::vector<std::string> texts;
  TokenIds token_ids;
  for (const TokenIds& word : ReadWords(inputs, kName, index)) {
    std::string text;
    for (const int32_t id : word) {
      if (id < 0 || static_cast<uint64_t>(id) >= engine_.vocab_size) {
        RefuseInput(kName, StrCat("token id ", id, ": the vocabulary has ", engine_.vocab_size));
      }
      text += engine_.token_bytes.bytes(id);
    }
    const bool is_text = !text.empty() && IsUtf8(text);
    if (word.size() == 1 && (!is_text || engine_.token_bytes.is_special(word[0]))) {
      token_ids.push_back(word[0]);
    } else if (is_text) {
      texts.push_back(text);
    } else {
      RefuseInput(kName, StrCat(Show(word),
                                ": these tokens together are no text; give a word of "
                                "whole characters, or one token"));
    }
  }
  request.SetOption("stop", texts);
  request.SetOption("stop_token_ids", token_ids);
  request.fields.include_stop = 1;
  request.fields.show_special_tokens = 1;  // in the texts that words are looked for in
}

}  // namespace enginery::triton::trtllm
