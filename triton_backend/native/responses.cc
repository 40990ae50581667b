// SPDX-License-Identifier: Apache-2.0
#include "responses.h"

#include <cstring>
#include <map>
#include <string_view>
#include <utility>

namespace enginery::triton {
namespace {

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

class TensorList {
 public:
  void AddText(std::string_view name, std::string_view text) {
    const auto num_bytes = static_cast<uint32_t>(text.size());
    std::string data(sizeof num_bytes, '\0');
    std::memcpy(data.data(), &num_bytes, sizeof num_bytes);
    Add(name, 1, data.append(text));
  }

  template <class Number>
  void AddNumbers(std::string_view name, const std::vector<Number>& values) {
    std::string data(values.size() * sizeof(Number), '\0');
    if (!values.empty()) std::memcpy(data.data(), values.data(), data.size());
    Add(name, values.size(), std::move(data));
  }

  template <class Number>
  void AddNumber(std::string_view name, int64_t value) {
    AddNumbers(name, std::vector<Number>{static_cast<Number>(value)});
  }

  std::vector<OutputTensor> Take() { return std::move(tensors_); }

 private:
  void Add(std::string_view name, size_t count, std::string data) {
    tensors_.push_back({FindTensor(Outputs(), name), static_cast<int64_t>(count), std::move(data)});
  }

  std::vector<OutputTensor> tensors_;
};

void AddPerfMetrics(const Delta& delta, TensorList& tensors) {
  tensors.AddNumber<int32_t>("num_input_tokens", delta.num_prompt_tokens);
  tensors.AddNumber<int32_t>("num_output_tokens", delta.num_output_tokens);
  tensors.AddNumber<int32_t>("num_reused_tokens", delta.num_reused_tokens);
  tensors.AddNumber<int64_t>("arrival_time_ns", delta.arrival_ns);
  tensors.AddNumber<int64_t>("first_scheduled_time_ns", delta.first_scheduled_ns);
  tensors.AddNumber<int64_t>("first_token_time_ns", delta.first_token_ns);
  tensors.AddNumber<int64_t>("last_token_time_ns", delta.last_token_ns);
}

}  // namespace

Delta::Delta(const enginery_event& event)
    : request_id(event.request_id),
      sequence_index(event.sequence_index),
      finish_reason(event.finish_reason),
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
  if (event.logprobs == nullptr) return;
  for (uint64_t i = 0; i < event.num_token_ids; ++i) {
    log_probs.push_back(event.logprobs[i * event.logprobs_per_token].logprob);
  }
}

void Delta::Add(Delta later) {
  later.token_ids.insert(later.token_ids.begin(), token_ids.begin(), token_ids.end());
  later.text.insert(0, text);
  later.log_probs.insert(later.log_probs.begin(), log_probs.begin(), log_probs.end());
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
  return merged;
}

std::vector<OutputTensor> ResponseWriter::Write(Delta delta) {
  const int32_t index = delta.sequence_index;
  if (started_.insert(index).second && options_.repeats_prompt) {
    delta.token_ids.insert(delta.token_ids.begin(), prompt_.begin(), prompt_.end());
  }
  TensorList tensors;
  tensors.AddText("text_output", delta.text);
  tensors.AddNumbers("output_ids", delta.token_ids);
  tensors.AddNumber<int32_t>("sequence_index", index);
  tensors.AddText("finish_reason", FinishReason(delta.finish_reason));
  if (options_.returns_log_probs) {
    double& total = cum_log_probs_[index];
    for (const float log_prob : delta.log_probs) total += log_prob;
    tensors.AddNumbers("output_log_probs", delta.log_probs);
    tensors.AddNumbers("cum_log_probs", std::vector<float>{static_cast<float>(total)});
  }
  if (options_.returns_perf_metrics && delta.finish_reason != ENGINERY_FINISH_NONE) {
    AddPerfMetrics(delta, tensors);
  }
  return tensors.Take();
}

}  // namespace enginery::triton
