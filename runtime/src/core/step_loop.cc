// SPDX-License-Identifier: Apache-2.0
#include "core/step_loop.h"

#include <algorithm>

#include "base/error.h"
#include "base/str_cat.h"

namespace enginery {
namespace {

SchedulerOptions MakeSchedulerOptions(const RuntimeConfig& config) {
  SchedulerOptions options;
  options.max_batch_size = config.model.max_batch_size;
  options.max_num_tokens = config.model.max_num_tokens;
  options.max_logit_rows = config.max_logit_rows;
  options.max_chunk_tokens = config.max_chunk_tokens;
  options.policy = config.policy;
  options.enable_chunked_context = config.enable_chunked_context;
  return options;
}

OutputSequence* Output(Sequence* sequence) { return static_cast<OutputSequence*>(sequence); }

}  // namespace

StepLoop::StepLoop(const RuntimeConfig& config, const enginery_executor& executor,
                   const enginery_executor_info& info)
    : config_(config),
      executor_(executor),
      info_(info),
      blocks_(info.num_blocks, config.model.tokens_per_block, config.enable_block_reuse),
      scheduler_(MakeSchedulerOptions(config), &blocks_),
      sampler_(config.model.vocab_size) {}

void StepLoop::CheckFits(const Request& request) const {
  const Sequence& sequence = *request.sequences.front();
  const int64_t num_required = scheduler_.NumBlocksRequired(
      sequence.num_prompt_tokens, sequence.max_tokens, sequence.num_slots);
  if (num_required <= info_.num_blocks) return;
  throw Error(
      ENGINERY_INVALID_ARGUMENT,
      StrCat("request field max_tokens is ", sequence.max_tokens, ": with ",
             sequence.num_prompt_tokens, " prompt tokens and num_return_sequences ",
             sequence.num_slots, " it needs ", num_required, " KV blocks of ",
             config_.model.tokens_per_block, " tokens; accepted: at most ", info_.num_blocks,
             " blocks; ask for less or raise the runtime option kv_cache_bytes (a block takes ",
             info_.block_bytes, " bytes)"));
}

void StepLoop::Add(std::unique_ptr<Request> request) {
  const std::lock_guard lock(mutex_);
  Request* r = request.get();
  for (const auto& sequence : r->sequences) {
    sequence->ticket = r->id;
    UpdateSampling(sequence.get());
  }
  if (r->deadline_ns != 0) deadlines_.push({r->deadline_ns, r->id});
  requests_.emplace(r->id, std::move(request));
  ++stats_.num_requests;
  scheduler_.Add(r->sequences.front().get());
}

void StepLoop::Cancel(uint64_t request_id) {
  const std::lock_guard lock(mutex_);
  const auto place = requests_.find(request_id);
  if (place == requests_.end()) return;
  EndRequest(place->second.get(), ENGINERY_FINISH_CANCELLED);
  DropEnded();
}

void StepLoop::CancelAll() {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, request] : requests_) {
    EndRequest(request.get(), ENGINERY_FINISH_CANCELLED);
  }
  DropEnded();
}

void StepLoop::FailAll(enginery_status status, const std::string& message) {
  const std::lock_guard lock(mutex_);
  blocks_.ClearCopies();
  for (const auto& [id, request] : requests_) {
    EndRequest(request.get(), ENGINERY_FINISH_ERROR, status, message);
  }
  DropEnded();
}

bool StepLoop::Step() {
  std::unique_lock lock(mutex_);
  const uint64_t start_ns = MonotonicNs();
  EndExpired(start_ns);
  const ScheduledStep& step = scheduler_.Schedule();
  if (step.sequences.empty()) return false;
  NoteAdmitted(step, start_ns);
  const enginery_batch* batch = builder_.Build(stats_.num_iterations, step, blocks_);

  is_executing_ = true;
  lock.unlock();
  const uint64_t executor_start_ns = MonotonicNs();
  enginery_step_output output = {};
  const enginery_status status = Execute(batch, &output);
  const uint64_t executor_ns = MonotonicNs() - executor_start_ns;
  lock.lock();
  is_executing_ = false;
  blocks_.ClearCopies();
  if (status == ENGINERY_OK) {
    scheduler_.Complete(step);
    HandleOutput(step, output);
  } else {
    const char* reason =
        executor_.last_error == nullptr ? nullptr : executor_.last_error(executor_.ctx);
    FailStep(step, ENGINERY_EXECUTOR_FAILED,
             StrCat("the executor failed with ", enginery_status_name(status), ": ",
                    reason == nullptr || *reason == '\0' ? "it gave no reason" : reason));
  }
  NoteIteration(step, start_ns, executor_ns);
  DropEnded();
  return true;
}

void StepLoop::EndExpired(uint64_t now_ns) {
  while (!deadlines_.empty() && deadlines_.top().first <= now_ns) {
    const auto place = requests_.find(deadlines_.top().second);
    deadlines_.pop();
    if (place != requests_.end()) EndRequest(place->second.get(), ENGINERY_FINISH_TIMEOUT);
  }
  DropEnded();
}

void StepLoop::NoteAdmitted(const ScheduledStep& step, uint64_t now_ns) {
  for (Sequence* sequence : step.admitted) {
    Request* request = Output(sequence)->request;
    if (request->first_scheduled_ns != 0) continue;  // it was preempted and is back
    request->first_scheduled_ns = now_ns;
    stats_.num_prompt_tokens += static_cast<uint64_t>(sequence->num_prompt_tokens);
    stats_.num_reused_tokens += static_cast<uint64_t>(sequence->num_reused_tokens);
    for (const auto& sibling : request->sequences) {
      sibling->num_reused_tokens = sequence->num_reused_tokens;
    }
  }
}

enginery_status StepLoop::Execute(const enginery_batch* batch, enginery_step_output* output) {
  output->abi_size = sizeof *output;
  const enginery_status status = executor_.execute(executor_.ctx, batch);
  return status == ENGINERY_OK ? executor_.collect(executor_.ctx, output) : status;
}

void StepLoop::NoteIteration(const ScheduledStep& step, uint64_t start_ns, uint64_t executor_ns) {
  iteration_.iteration = stats_.num_iterations++;
  iteration_.start_ns = start_ns;
  iteration_.duration_ns = MonotonicNs() - start_ns;
  iteration_.executor_ns = executor_ns;
  iteration_.num_sequences = step.sequences.size();
  iteration_.num_decode_tokens = static_cast<uint64_t>(step.num_decode_tokens);
  iteration_.num_prefill_tokens = static_cast<uint64_t>(step.num_tokens - step.num_decode_tokens);
  iteration_.num_waiting = static_cast<uint64_t>(scheduler_.num_waiting());
  iteration_.num_used_blocks =
      static_cast<uint64_t>(blocks_.num_blocks() - blocks_.num_free_blocks());
  iteration_.num_preempted = step.preempted.size();
  stats_.num_preemptions += step.preempted.size();
  stats_.num_scheduled_tokens += static_cast<uint64_t>(step.num_tokens);
  stats_.step_ns += iteration_.duration_ns;
  ++stats_.step_time_counts[StepTimeIndex(iteration_.duration_ns)];
  stats_.scheduler_ns += iteration_.duration_ns - executor_ns;
}

enginery_stats StepLoop::Stats() const {
  enginery_stats stats = stats_;
  stats.abi_size = sizeof stats;
  stats.num_waiting = static_cast<uint64_t>(scheduler_.num_waiting());
  stats.num_running = static_cast<uint64_t>(scheduler_.num_running());
  stats.num_blocks = static_cast<uint64_t>(blocks_.num_blocks());
  stats.num_free_blocks = static_cast<uint64_t>(blocks_.num_free_blocks());
  stats.num_cached_blocks = static_cast<uint64_t>(blocks_.num_cached_blocks());
  stats.block_bytes = info_.block_bytes;
  stats.workspace_bytes = info_.workspace_bytes;
  return stats;
}

void StepLoop::FailStep(const ScheduledStep& step, enginery_status status,
                        const std::string& message) {
  for (const ScheduledSequence& scheduled : step.sequences) {
    EndRequest(Output(scheduled.sequence)->request, ENGINERY_FINISH_ERROR, status, message);
  }
}

void StepLoop::DropEnded() {
  for (Request* request : ended_) {
    ended_ids_.push_back(request->id);
    ++stats_.num_finished;
    requests_.erase(request->id);
  }
  ended_.clear();
}

}  // namespace enginery
