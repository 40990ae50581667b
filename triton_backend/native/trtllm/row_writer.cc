// SPDX-License-Identifier: Apache-2.0
#include "row_writer.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>

#include "tensors.h"

namespace enginery::triton::trtllm {
namespace {

// Of one row, the only one of its response.
template <class Number>
void AddOne(std::string_view name, Number value, TensorList& tensors) {
  tensors.AddNumbers(name, std::span<const Number>(&value, 1), {1, 1});
}

void AddCount(std::string_view name, int64_t value, TensorList& tensors) {
  AddOne(name, static_cast<int32_t>(value), tensors);
}

template <class Item>
void Append(std::vector<Item>& to, const std::vector<Item>& from, size_t count) {
  to.insert(to.end(), from.begin(), from.begin() + static_cast<std::ptrdiff_t>(count));
}

template <class Item>
void RemoveFront(std::vector<Item>& from, size_t count) {
  from.erase(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(count));
}

}  // namespace

std::vector<OutputTensor> RowWriter::Write(Delta delta) {
  Sequence& sequence = sequences_[delta.sequence_index];
  if (!delta.context_logits.empty()) context_logits_ = std::move(delta.context_logits);
  Hold(delta, sequence);
  const bool is_finished = delta.finish_reason != ENGINERY_FINISH_NONE;
  const size_t num_tokens = is_finished ? sequence.gate.Flush() : sequence.gate.Release();
  if (num_tokens == 0 && !is_finished) return {};
  return Outputs(delta, sequence, num_tokens);
}

void RowWriter::Hold(Delta& delta, Sequence& sequence) const {
  size_t count = delta.token_ids.size();
  const bool is_end = std::ranges::count(options_.end_token_ids, delta.stop_token_id) > 0;
  if (delta.stop_token_id >= 0 && is_end && count > 0) --count;
  for (size_t i = 0; i < count; ++i) {
    const int32_t id = delta.token_ids[i];
    sequence.gate.Put(token_bytes_.is_special(id) ? "" : token_bytes_.bytes(id));
  }
  Append(sequence.token_ids, delta.token_ids, count);
  if (options_.returns_log_probs) Append(sequence.log_probs, delta.log_probs.own, count);
  if (options_.returns_generation_logits) {
    Append(sequence.logits, delta.generation_logits, count * static_cast<size_t>(vocab_size_));
  }
}

std::vector<OutputTensor> RowWriter::Outputs(const Delta& delta, Sequence& sequence,
                                             size_t num_tokens) {
  sequence.num_sent += static_cast<int64_t>(num_tokens);
  std::vector<int32_t> token_ids = options_.repeated_prompt;
  Append(token_ids, sequence.token_ids, num_tokens);
  const auto length = static_cast<int64_t>(token_ids.size());
  TensorList tensors(trtllm::Outputs());
  tensors.AddNumbers<int32_t>("output_ids", token_ids, {1, 1, length});
  AddCount("sequence_length", length, tensors);
  if (options_.batch_index) AddCount("batch_index", *options_.batch_index, tensors);
  if (options_.has_sequences) AddCount("sequence_index", delta.sequence_index, tensors);
  if (options_.returns_log_probs) AddLogProbs(sequence, tensors);
  if (!context_logits_.empty()) {
    const auto num_rows = static_cast<int64_t>(context_logits_.size()) / vocab_size_;
    tensors.AddNumbers<float>("context_logits", context_logits_, {1, num_rows, vocab_size_});
  }
  if (options_.returns_generation_logits) AddGenerationLogits(sequence, num_tokens, tensors);
  if (options_.returns_num_input_tokens) {
    AddCount("num_input_tokens", delta.num_prompt_tokens, tensors);
  }
  if (options_.returns_num_output_tokens) {
    AddCount("num_output_tokens", sequence.num_sent, tensors);
  }
  if (options_.returns_perf_metrics) AddPerfMetrics(delta, tensors);
  RemoveFront(sequence.token_ids, num_tokens);
  if (options_.returns_generation_logits) {
    RemoveFront(sequence.logits, num_tokens * static_cast<size_t>(vocab_size_));
  }
  return tensors.Take();
}

void RowWriter::AddLogProbs(const Sequence& sequence, TensorList& tensors) const {
  const auto sent = std::span(sequence.log_probs).first(static_cast<size_t>(sequence.num_sent));
  tensors.AddNumbers<float>("output_log_probs", sent, {1, 1, sequence.num_sent});
  const double sum = std::accumulate(sent.begin(), sent.end(), 0.0);
  AddOne("cum_log_probs", static_cast<float>(sum), tensors);
}

void RowWriter::AddGenerationLogits(const Sequence& sequence, size_t num_tokens,
                                    TensorList& tensors) const {
  const auto count = static_cast<int64_t>(num_tokens);
  const int64_t width = count == 0 ? 0 : vocab_size_;
  const auto sent = std::span(sequence.logits).first(num_tokens * static_cast<size_t>(vocab_size_));
  if (options_.is_streaming) {
    tensors.AddNumbers<float>("generation_logits", sent, {1, count, 1, width});
  } else {
    tensors.AddNumbers<float>("generation_logits", sent, {1, 1, count, width});
  }
}

void RowWriter::AddPerfMetrics(const Delta& delta, TensorList& tensors) const {
  // The last token drawn has no place in the KV cache: nothing was drawn after it.
  const int64_t num_held =
      delta.num_prompt_tokens + std::max<int64_t>(0, delta.num_output_tokens - 1);
  const int64_t total = (num_held + tokens_per_block_ - 1) / tokens_per_block_;
  const int64_t reused = delta.num_reused_tokens / tokens_per_block_;
  AddCount("kv_cache_alloc_total_blocks", total, tensors);
  AddCount("kv_cache_reused_blocks", reused, tensors);
  AddCount("kv_cache_alloc_new_blocks", total - reused, tensors);
  AddOne("acceptance_rate", 0.0f, tensors);
  AddCount("total_accepted_draft_tokens", 0, tensors);
  AddCount("total_draft_tokens", 0, tensors);
  AddOne("arrival_time_ns", delta.arrival_ns, tensors);
  AddOne("first_scheduled_time_ns", delta.first_scheduled_ns, tensors);
  AddOne("first_token_time_ns", delta.first_token_ns, tensors);
  AddOne("last_token_time_ns", delta.last_token_ns, tensors);
}

}  // namespace enginery::triton::trtllm
