// SPDX-License-Identifier: Apache-2.0
//
// A request in flight and its sequences: what the step loop keeps of them.
#ifndef ENGINERY_SRC_CORE_REQUEST_H_
#define ENGINERY_SRC_CORE_REQUEST_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/event.h"
#include "enginery/enginery.h"
#include "sample/sampling_params.h"
#include "sample/token_counts.h"
#include "schedule/sequence.h"
#include "text/stop_strings.h"
#include "text/text_stream.h"

namespace enginery {

struct Request;

struct OutputSequence : Sequence {
  OutputSequence(Request* owner, const StopStrings* stop_strings, bool include_stop)
      : request(owner), text(stop_strings, include_stop) {}

  Request* const request;
  TextStream text;
  TokenCounts counts;
  std::unique_ptr<Event> event;  // what is not yet handed out; null when there is nothing
  bool is_finished = false;
  uint64_t num_visible_tokens = 0;  // output tokens that events have told, or will
  uint64_t first_token_ns = 0;
  uint64_t last_token_ns = 0;
};

struct Request {
  uint64_t id = 0;
  std::string client_request_id;
  SamplingParams sampling;
  std::vector<int32_t> stop_token_ids;
  StopStrings stop_strings;
  bool ignore_eos = false;
  bool keeps_stop_token = false;  // among the token ids
  bool shows_stop = false;        // in the text
  bool show_special_tokens = false;
  bool is_streaming = true;
  bool is_scored_alone = false;  // nothing is drawn
  bool wants_context_logits = false;
  bool wants_generation_logits = false;
  bool owes_prompt_logprobs = false;  // they are wanted, and no event has them yet
  int32_t num_prompt_logprobs = 0;    // best ones beside each token of the prompt
  int64_t num_prompt_rows = 0;        // prompt positions, from the first, whose logits are wanted
  uint64_t arrival_ns = 0;
  uint64_t deadline_ns = 0;  // 0: none
  uint64_t first_scheduled_ns = 0;

  // Set up with the request; those after the first get tokens and KV when they are forked.
  std::vector<std::unique_ptr<OutputSequence>> sequences;
  size_t num_unfinished = 0;
  std::vector<float> context_logits;  // [positions so far][vocab_size], until the first event
  // [positions so far][1 + num_prompt_logprobs], until the first event
  std::vector<enginery_logprob> prompt_logprobs;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_CORE_REQUEST_H_
