// SPDX-License-Identifier: Apache-2.0
//
// The second half of a step: from the executor's logits to tokens, text and events.
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "base/str_cat.h"
#include "core/step_loop.h"
#include "sample/logit_adjuster.h"

namespace enginery {
namespace {

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

void StepLoop::HandleOutput(const ScheduledStep& step, const enginery_step_output& output) {
  const auto vocab_size = static_cast<size_t>(config_.model.vocab_size);
  size_t num_rows = 0;
  size_t num_samples = 0;
  for (const ScheduledSequence& scheduled : step.sequences) {
    auto* sequence = static_cast<OutputSequence*>(scheduled.sequence);
    const float* rows = output.logits == nullptr ? nullptr : output.logits + num_rows * vocab_size;
    const int32_t* tokens = output.token_ids == nullptr ? nullptr : output.token_ids + num_samples;
    const auto count = static_cast<size_t>(scheduled.num_logit_rows);
    num_rows += count;
    if (scheduled.draws_token) num_samples += static_cast<size_t>(sequence->num_slots);
    if (sequence->is_finished) continue;  // its request failed earlier in this step
    KeepPromptRows(scheduled, rows);
    if (!scheduled.draws_token || sequence->is_finished) continue;
    if (sequence->request->is_scored_alone) {
      EndRequest(sequence->request, ENGINERY_FINISH_LENGTH);
      continue;
    }
    DrawTokens(sequence, rows == nullptr ? nullptr : rows + (count - 1) * vocab_size, tokens);
  }
}

void StepLoop::KeepPromptRows(const ScheduledSequence& scheduled, const float* rows) {
  const auto* sequence = static_cast<OutputSequence*>(scheduled.sequence);
  Request* request = sequence->request;
  // The rows are those of the last positions that are computed now; what a preempted sequence
  // computes again was kept the first time.
  const int64_t begin = sequence->num_computed_tokens - scheduled.num_logit_rows;
  const int64_t end = std::min(sequence->num_computed_tokens, request->num_prompt_rows);
  if (begin >= end) return;
  if (rows == nullptr) {
    EndRequest(request, ENGINERY_FINISH_ERROR, ENGINERY_EXECUTOR_FAILED,
               StrCat("the executor gave no logits; return_context_logits or "
                      "return_prompt_logprobs needs those of the prompt's positions ",
                      begin, "..", end - 1));
    return;
  }
  const int64_t vocab_size = config_.model.vocab_size;
  if (request->wants_context_logits) {
    std::vector<float>& kept = request->context_logits;
    kept.insert(kept.end(), rows, rows + (end - begin) * vocab_size);
  }
  const int64_t last = sequence->num_prompt_tokens - 1;
  for (int64_t i = begin; request->owes_prompt_logprobs && i < std::min(end, last); ++i) {
    if (sequence->is_finished) return;
    KeepPromptLogprobs(request, i + 1, rows + (i - begin) * vocab_size);
  }
}

void StepLoop::KeepPromptLogprobs(Request* request, int64_t position, const float* logits) {
  std::vector<enginery_logprob>& kept = request->prompt_logprobs;
  const size_t num_kept = kept.size();
  kept.resize(num_kept + 1 + static_cast<size_t>(request->num_prompt_logprobs));
  const int32_t token_id = request->sequences.front()->token_ids[static_cast<size_t>(position)];
  ComputeLogprobs({logits, static_cast<size_t>(config_.model.vocab_size)}, token_id,
                  request->num_prompt_logprobs, &kept[num_kept]);
  if (!std::isnan(kept[num_kept].logprob)) return;
  kept.resize(num_kept);
  EndRequest(request, ENGINERY_FINISH_ERROR, ENGINERY_EXECUTOR_FAILED,
             StrCat("no log probability at prompt position ", position,
                    ": a logit is NaN or +infinity, or all are -infinity"));
}

void StepLoop::DrawTokens(OutputSequence* sequence, const float* logits,
                          const int32_t* executor_tokens) {
  Request* request = sequence->request;
  const auto first = static_cast<size_t>(sequence->index);
  const auto num_slots = static_cast<size_t>(sequence->num_slots);
  drawn_.resize(num_slots);
  for (size_t i = 0; i < num_slots; ++i) {
    const int32_t executor_token = executor_tokens == nullptr ? -1 : executor_tokens[i];
    OutputSequence* target = request->sequences[first + i].get();
    if (!DrawToken(*sequence, target, logits, executor_token, &drawn_[i])) return;
  }
  for (size_t i = 1; i < num_slots; ++i) {
    scheduler_.Fork(sequence, request->sequences[first + i].get());
  }
  for (size_t i = 0; i < num_slots; ++i) {
    AcceptToken(request->sequences[first + i].get(), drawn_[i], logits);
  }
}

bool StepLoop::DrawToken(const OutputSequence& sequence, OutputSequence* target,
                         const float* logits, int32_t executor_token, int32_t* token_id) {
  Request* request = sequence.request;
  // The records of a sequence that is about to fork are copies of its own.
  if (executor_token >= 0 && (sequence.sampling.flags & ENGINERY_SAMPLE_HOST_ONLY) == 0) {
    *token_id = executor_token;
    if (executor_token < config_.model.vocab_size) return true;
    EndRequest(request, ENGINERY_FINISH_ERROR, ENGINERY_EXECUTOR_FAILED,
               StrCat("the executor drew token ", executor_token, "; the vocabulary has ",
                      config_.model.vocab_size));
    return false;
  }
  if (logits == nullptr) {
    EndRequest(request, ENGINERY_FINISH_ERROR, ENGINERY_EXECUTOR_FAILED,
               "the executor gave neither logits nor a token that may be taken: a record that "
               "is host_only or whose token is -1 needs logits");
    return false;
  }
  SampleContext context;
  context.token_ids = sequence.token_ids;
  context.num_prompt_tokens = sequence.num_prompt_tokens;
  context.sequence_index = static_cast<uint32_t>(target->index);
  context.counts = &target->counts;
  const SampleResult result = sampler_.Sample(
      request->sampling, context, {logits, static_cast<size_t>(config_.model.vocab_size)});
  *token_id = result.token_id;
  if (result.status == SampleStatus::kOk) return true;
  const bool is_ban = result.status == SampleStatus::kNoToken;
  EndRequest(request, ENGINERY_FINISH_ERROR,
             is_ban ? ENGINERY_INVALID_ARGUMENT : ENGINERY_EXECUTOR_FAILED,
             StrCat("no token can be drawn at position ", sequence.num_tokens(), ": ",
                    is_ban ? "every token is banned or has logit -infinity; relax logit_bias, "
                             "bad_token_sequences or min_tokens"
                           : "a logit is NaN or +infinity (in the model's output, or after "
                             "penalties and bias)"));
  return false;
}

void StepLoop::AcceptToken(OutputSequence* sequence, int32_t token_id, const float* logits) {
  const Request& request = *sequence->request;
  sequence->last_token_ns = MonotonicNs();
  if (sequence->first_token_ns == 0) sequence->first_token_ns = sequence->last_token_ns;
  sequence->token_ids.push_back(token_id);
  Event& event = EventOf(sequence);
  const bool is_end = !request.ignore_eos && Contains(config_.model.eos_token_ids, token_id);
  const bool is_stop = is_end || Contains(request.stop_token_ids, token_id);
  int32_t match = StopMatcher::kNone;
  if (!is_stop || request.keeps_stop_token) {
    ++sequence->num_visible_tokens;
    ++stats_.num_output_tokens;
    event.token_ids.push_back(token_id);
    const auto vocab_size = static_cast<size_t>(config_.model.vocab_size);
    if (request.sampling.num_logprobs >= 0) {
      const size_t begin = event.logprobs.size();
      event.logprobs.resize(begin + 1 + static_cast<size_t>(request.sampling.num_logprobs));
      ComputeLogprobs({logits, vocab_size}, token_id, request.sampling.num_logprobs,
                      &event.logprobs[begin]);
    }
    if (request.wants_generation_logits) {
      event.generation_logits.insert(event.generation_logits.end(), logits, logits + vocab_size);
    }
    const TokenBytes& tokens = config_.model.token_bytes;
    const bool has_text = request.show_special_tokens || !tokens.is_special(token_id);
    if (has_text && (!is_stop || request.shows_stop)) {
      match = sequence->text.Append(tokens.bytes(token_id), &event.text);
    }
  }
  if (match != StopMatcher::kNone) {
    event.stop_string = request.stop_strings.string(static_cast<size_t>(match));
  }
  if (is_stop) {
    event.view.stop_token_id = token_id;
    FinishSequence(sequence, is_end ? ENGINERY_FINISH_END_ID : ENGINERY_FINISH_STOP, ENGINERY_OK,
                   "");
  } else if (match != StopMatcher::kNone) {
    FinishSequence(sequence, ENGINERY_FINISH_STOP, ENGINERY_OK, "");
  } else if (sequence->num_output_tokens() == sequence->max_tokens) {
    FinishSequence(sequence, ENGINERY_FINISH_LENGTH, ENGINERY_OK, "");
  } else {
    UpdateSampling(sequence);
    if (request.is_streaming) Emit(sequence);
  }
}

void StepLoop::UpdateSampling(OutputSequence* sequence) const {
  const Request& request = *sequence->request;
  const SamplingParams& params = request.sampling;
  // The row of a prompt's last token is wanted for itself as well as to draw from: an executor that
  // draws on its device must not leave it there.
  const bool is_prompt_row = request.wants_context_logits && sequence->num_output_tokens() == 0;
  const bool needs_logits =
      params.num_logprobs >= 0 || request.wants_generation_logits || is_prompt_row;
  const bool is_adjusted = NeedsAdjustment(params, sequence->num_output_tokens());
  uint32_t& flags = sequence->sampling.flags;
  flags = 0;
  if (params.temperature == 0.0f) flags |= ENGINERY_SAMPLE_GREEDY;
  if (needs_logits || is_adjusted) flags |= ENGINERY_SAMPLE_HOST_ONLY;
}

Event& StepLoop::EventOf(OutputSequence* sequence) {
  if (sequence->event == nullptr) {
    sequence->event = std::make_unique<Event>();
    sequence->event->view.stop_token_id = -1;
  }
  return *sequence->event;
}

void StepLoop::Emit(OutputSequence* sequence) {
  Request* request = sequence->request;
  Event& event = EventOf(sequence);
  enginery_event& view = event.view;
  view.request_id = request->id;
  view.sequence_index = sequence->index;
  view.is_last = request->num_unfinished == 0 ? 1 : 0;
  view.logprobs_per_token = static_cast<uint64_t>(request->sampling.num_logprobs + 1);
  view.num_preemptions = sequence->num_preemptions;
  view.num_prompt_tokens = static_cast<uint64_t>(sequence->num_prompt_tokens);
  view.num_reused_tokens = static_cast<uint64_t>(sequence->num_reused_tokens);
  view.num_output_tokens = sequence->num_visible_tokens;
  view.arrival_ns = request->arrival_ns;
  view.first_scheduled_ns = request->first_scheduled_ns;
  view.first_token_ns = sequence->first_token_ns;
  view.last_token_ns = sequence->last_token_ns;
  // Complete or not at all: a request that ends within its prompt has none.
  const uint64_t num_context_logits =
      request->context_logits.size() / static_cast<uint64_t>(config_.model.vocab_size);
  if (num_context_logits == view.num_prompt_tokens) {
    view.num_context_logits = num_context_logits;
    event.context_logits = std::move(request->context_logits);
    request->context_logits.clear();
  }
  const uint64_t logprobs_per_token = static_cast<uint64_t>(request->num_prompt_logprobs) + 1;
  const uint64_t num_logprobs = view.num_prompt_tokens - 1;
  if (request->owes_prompt_logprobs &&
      request->prompt_logprobs.size() == num_logprobs * logprobs_per_token) {
    view.num_prompt_logprobs = num_logprobs;
    view.prompt_logprobs_per_token = logprobs_per_token;
    event.prompt_logprobs = std::move(request->prompt_logprobs);
    request->owes_prompt_logprobs = false;
  }
  events_.push_back(std::move(sequence->event));
}

void StepLoop::FinishSequence(OutputSequence* sequence, int32_t reason, enginery_status status,
                              const std::string& message) {
  Request* request = sequence->request;
  Event& event = EventOf(sequence);
  if (event.stop_string.empty()) {
    const int32_t match = sequence->text.Finish(&event.text);
    if (match != StopMatcher::kNone) {
      event.stop_string = request->stop_strings.string(static_cast<size_t>(match));
      if (reason == ENGINERY_FINISH_LENGTH) reason = ENGINERY_FINISH_STOP;
    }
  }
  event.view.finish_reason = reason;
  event.view.status = status;
  event.error = message;
  scheduler_.Finish(sequence);
  sequence->is_finished = true;
  if (--request->num_unfinished == 0) ended_.push_back(request);
  Emit(sequence);
}

void StepLoop::EndRequest(Request* request, int32_t reason, enginery_status status,
                          const std::string& message) {
  for (const auto& sequence : request->sequences) {
    if (!sequence->is_finished) FinishSequence(sequence.get(), reason, status, message);
  }
}

}  // namespace enginery
