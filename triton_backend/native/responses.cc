// SPDX-License-Identifier: Apache-2.0
#include "responses.h"

#include <map>
#include <span>
#include <string_view>
#include <utility>

namespace enginery::triton {
namespace {

void AddPerfMetrics(const Delta& delta, TensorList& tensors) {
  tensors.AddNumber<int32_t>("num_input_tokens", delta.num_prompt_tokens);
  tensors.AddNumber<int32_t>("num_output_tokens", delta.num_output_tokens);
  tensors.AddNumber<int32_t>("num_reused_tokens", delta.num_reused_tokens);
  tensors.AddNumber<int64_t>("arrival_time_ns", delta.arrival_ns);
  tensors.AddNumber<int64_t>("first_scheduled_time_ns", delta.first_scheduled_ns);
  tensors.AddNumber<int64_t>("first_token_time_ns", delta.first_token_ns);
  tensors.AddNumber<int64_t>("last_token_time_ns", delta.last_token_ns);
}

// `width` for each token: its own, then those of the likeliest.
LogProbs ReadLogProbs(const enginery_logprob* from, uint64_t num_tokens, uint64_t width) {
  LogProbs read;
  for (const enginery_logprob& entry : std::span(from, num_tokens * width)) {
    if ((&entry - from) % static_cast<int64_t>(width) == 0) {
      read.own.push_back(entry.logprob);
    } else {
      read.top_token_ids.push_back(entry.token_id);
      read.top.push_back(entry.logprob);
    }
  }
  return read;
}

template <class Item>
void Prepend(const std::vector<Item>& items, std::vector<Item>& to) {
  to.insert(to.begin(), items.begin(), items.end());
}

}  // namespace

std::string_view FinishReason(int32_t reason) {
  switch (reason) {
    case ENGINERY_FINISH_NONE:
      return "";
    case ENGINERY_FINISH_END_ID:
    case ENGINERY_FINISH_STOP:
      return "stop";
    case ENGINERY_FINISH_LENGTH:
      return "length";
    case ENGINERY_FINISH_CANCELLED:
      return "cancelled";
    case ENGINERY_FINISH_TIMEOUT:
      return "timeout";
    default:
      return "error";
  }
}

Delta::Delta(const enginery_event& event, uint64_t vocab_size)
    : request_id(event.request_id),
      sequence_index(event.sequence_index),
      finish_reason(event.finish_reason),
      stop_token_id(event.stop_token_id),
      is_last(event.is_last != 0),
      status(event.status),
      error(event.error),
      token_ids(event.token_ids, event.token_ids + event.num_token_ids),
      text(event.text, event.text_bytes),
      num_prompt_tokens(static_cast<int64_t>(event.num_prompt_tokens)),
      num_reused_tokens(static_cast<int64_t>(event.num_reused_tokens)),
      num_output_tokens(static_cast<int64_t>(event.num_output_tokens)),
      arrival_ns(static_cast<int64_t>(event.arrival_ns)),
      first_scheduled_ns(static_cast<int64_t>(event.first_scheduled_ns)),
      first_token_ns(static_cast<int64_t>(event.first_token_ns)),
      last_token_ns(static_cast<int64_t>(event.last_token_ns)) {
  if (event.context_logits != nullptr) {
    context_logits.assign(event.context_logits,
                          event.context_logits + event.num_context_logits * vocab_size);
  }
  if (event.generation_logits != nullptr) {
    generation_logits.assign(event.generation_logits,
                             event.generation_logits + event.num_token_ids * vocab_size);
  }
  if (event.logprobs != nullptr) {
    log_probs = ReadLogProbs(event.logprobs, event.num_token_ids, event.logprobs_per_token);
  }
  if (event.prompt_logprobs_per_token != 0) {
    prompt_log_probs = ReadLogProbs(event.prompt_logprobs, event.num_prompt_logprobs,
                                    event.prompt_logprobs_per_token);
  }
}

void Delta::Add(Delta later) {
  Prepend(token_ids, later.token_ids);
  later.text.insert(0, text);
  Prepend(log_probs.own, later.log_probs.own);
  Prepend(log_probs.top_token_ids, later.log_probs.top_token_ids);
  Prepend(log_probs.top, later.log_probs.top);
  if (prompt_log_probs) later.prompt_log_probs = std::move(prompt_log_probs);
  if (!context_logits.empty()) later.context_logits = std::move(context_logits);
  Prepend(generation_logits, later.generation_logits);
  *this = std::move(later);
}

std::vector<Delta> Merge(std::vector<Delta> deltas) {
  // A sequence's place is that of its latest delta: a request's last response must come last.
  std::map<std::pair<uint64_t, int32_t>, size_t> places;
  std::vector<bool> is_kept(deltas.size(), true);
  for (size_t i = 0; i < deltas.size(); ++i) {
    const auto [place, is_first] =
        places.try_emplace({deltas[i].request_id, deltas[i].sequence_index}, i);
    if (is_first) continue;
    deltas[place->second].Add(std::move(deltas[i]));
    deltas[i] = std::move(deltas[place->second]);
    is_kept[place->second] = false;
    place->second = i;
  }
  std::vector<Delta> merged;
  for (size_t i = 0; i < deltas.size(); ++i) {
    if (is_kept[i]) merged.push_back(std::move(deltas[i]));
  }
  std::map<uint64_t, size_t> firsts;
  for (size_t i = 0; i < merged.size(); ++i) {
    const auto [first, is_first] = firsts.try_emplace(merged[i].request_id, i);
    if (is_first || !merged[i].prompt_log_probs) continue;
    std::swap(merged[i].prompt_log_probs, merged[first->second].prompt_log_probs);
  }
  return merged;
}

std::vector<OutputTensor> ResponseWriter::Write(Delta delta) {
  const int32_t index = delta.sequence_index;
  if (started_.insert(index).second && options_.repeats_prompt) {
    delta.token_ids.insert(delta.token_ids.begin(), prompt_.begin(), prompt_.end());
  }
  TensorList tensors(Outputs());
  tensors.AddText("text_output", delta.text);
  tensors.AddNumbers("output_ids", delta.token_ids);
  tensors.AddNumber<int32_t>("sequence_index", index);
  tensors.AddText("finish_reason", FinishReason(delta.finish_reason));
  if (options_.returns_log_probs) {
    double& total = cum_log_probs_[index];
    for (const float log_prob : delta.log_probs.own) total += log_prob;
    tensors.AddNumbers("output_log_probs", delta.log_probs.own);
    tensors.AddNumbers("cum_log_probs", std::vector<float>{static_cast<float>(total)});
  }
  if (options_.returns_top_tokens) {
    tensors.AddNumbers("top_token_ids", delta.log_probs.top_token_ids);
    tensors.AddNumbers("top_log_probs", delta.log_probs.top);
  }
  if (delta.prompt_log_probs) {
    tensors.AddNumbers("prompt_log_probs", delta.prompt_log_probs->own);
    if (options_.returns_prompt_top_tokens) {
      tensors.AddNumbers("prompt_top_token_ids", delta.prompt_log_probs->top_token_ids);
      tensors.AddNumbers("prompt_top_log_probs", delta.prompt_log_probs->top);
    }
  }
  if (options_.returns_perf_metrics && delta.finish_reason != ENGINERY_FINISH_NONE) {
    AddPerfMetrics(delta, tensors);
  }
  return tensors.Take();
}

}  // namespace enginery::triton
