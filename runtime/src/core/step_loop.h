// SPDX-License-Identifier: Apache-2.0
//
// One step at a time: schedule, execute, sample, tell. Everything here runs on the step thread, but
// for CheckFits and Describe; the threads around it are runtime.h's affair.
#ifndef ENGINERY_SRC_CORE_STEP_LOOP_H_
#define ENGINERY_SRC_CORE_STEP_LOOP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <queue>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/json_writer.h"
#include "cache/block_manager.h"
#include "core/event.h"
#include "core/request.h"
#include "core/runtime_config.h"
#include "core/statistics.h"
#include "enginery/enginery.h"
#include "sample/sampler.h"
#include "schedule/batch_builder.h"
#include "schedule/scheduler.h"

namespace enginery {

class StepLoop {
 public:
  // `executor` is initialised, gave `info`, and outlives the loop.
  StepLoop(const RuntimeConfig& config, const enginery_executor& executor,
           const enginery_executor_info& info);

  // Can the KV pool ever hold the request? Reads constants only: callable from any thread.
  void CheckFits(const Request& request) const;

  void Add(std::unique_ptr<Request> request);
  // Unknown ids are ignored: the request may just have ended.
  void Cancel(uint64_t request_id);
  void CancelAll();
  // Ends every request with ENGINERY_FINISH_ERROR.
  void FailAll(enginery_status status, const std::string& message);

  // Ends what is past its deadline and runs one step. Requests that fail end; the loop goes on.
  // False when there was nothing to run.
  bool Step();

  bool has_requests() const { return !requests_.empty(); }
  // What was told, and the ids that ended, since the caller last emptied them.
  Events* events() { return &events_; }
  std::vector<uint64_t>* ended_ids() { return &ended_ids_; }
  enginery_stats Stats() const;
  const IterationStats& last_iteration() const { return iteration_; }

  // Writes batch, queue and blocks as members of the open object, from any thread: null while the
  // step thread is elsewhere than in the executor and changes them.
  void Describe(JsonWriter* json) const;

 private:
  using Deadline = std::pair<uint64_t, uint64_t>;  // time in ns, request id

  void EndExpired(uint64_t now_ns);
  void NoteAdmitted(const ScheduledStep& step, uint64_t now_ns);
  enginery_status Execute(const enginery_batch* batch, enginery_step_output* output);
  void NoteIteration(const ScheduledStep& step, uint64_t start_ns, uint64_t executor_ns);
  void HandleOutput(const ScheduledStep& step, const enginery_step_output& output);
  // `rows`: of the sequence's logits that the step was asked for.
  void KeepPromptRows(const ScheduledSequence& scheduled, const float* rows);
  void KeepPromptLogprobs(Request* request, int64_t position, const float* logits);
  // Draws the next token of `sequence` and of those that are still to be forked off it.
  void DrawTokens(OutputSequence* sequence, const float* logits, const int32_t* executor_tokens);
  bool DrawToken(const OutputSequence& sequence, OutputSequence* target, const float* logits,
                 int32_t executor_token, int32_t* token_id);
  void AcceptToken(OutputSequence* sequence, int32_t token_id, const float* logits);
  void UpdateSampling(OutputSequence* sequence) const;

  Event& EventOf(OutputSequence* sequence);
  void Emit(OutputSequence* sequence);
  void FinishSequence(OutputSequence* sequence, int32_t reason, enginery_status status,
                      const std::string& message);
  // FinishSequence for all that are not finished.
  void EndRequest(Request* request, int32_t reason, enginery_status status = ENGINERY_OK,
                  const std::string& message = "");
  void FailStep(const ScheduledStep& step, enginery_status status, const std::string& message);
  // Forgets requests all of whose sequences are finished. Not while a step refers to them.
  void DropEnded();

  const RuntimeConfig config_;
  const enginery_executor executor_;
  const enginery_executor_info info_;
  // The step thread holds it while it changes what follows, and not while the executor works.
  mutable std::mutex mutex_;
  bool is_executing_ = false;
  BlockManager blocks_;
  Scheduler scheduler_;
  BatchBuilder builder_;
  Sampler sampler_;
  std::unordered_map<uint64_t, std::unique_ptr<Request>> requests_;
  std::priority_queue<Deadline, std::vector<Deadline>, std::greater<>> deadlines_;
  Events events_;
  std::vector<Request*> ended_;
  std::vector<uint64_t> ended_ids_;
  std::vector<int32_t> drawn_;  // kept for its memory
  enginery_stats stats_ = {};
  IterationStats iteration_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_CORE_STEP_LOOP_H_
