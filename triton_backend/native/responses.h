// SPDX-License-Identifier: Apache-2.0
//
// From the runtime's events to the output tensors of responses.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_RESPONSES_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_RESPONSES_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "enginery/enginery.h"
#include "generation_request.h"
#include "output_tensor.h"

namespace enginery::triton {

// Log probabilities of consecutive tokens.
struct LogProbs {
  std::vector<float> own;              // of the tokens that are there
  std::vector<int32_t> top_token_ids;  // as many of the likeliest for each of them
  std::vector<float> top;              // one per top_token_ids
};

// What is new of one sequence: one event, or several that piled up. Owns what it holds.
struct Delta {
  uint64_t request_id = 0;
  int32_t sequence_index = 0;
  int32_t finish_reason = ENGINERY_FINISH_NONE;
  int32_t stop_token_id = -1;  // the stop or end token that matched; -1: none
  bool is_last = false;
  enginery_status status = ENGINERY_OK;
  std::string error;
  std::vector<int32_t> token_ids;
  std::string text;
  LogProbs log_probs;  // of the tokens drawn, where they were asked for
  // Of the prompt's tokens from the second on; once for a request that asked for them.
  std::optional<LogProbs> prompt_log_probs;
  // [rows][vocab_size]; empty where they were not asked for. Context logits come once.
  std::vector<float> context_logits;
  std::vector<float> generation_logits;
  int64_t num_prompt_tokens = 0;
  int64_t num_reused_tokens = 0;
  int64_t num_output_tokens = 0;
  int64_t arrival_ns = 0;
  int64_t first_scheduled_ns = 0;
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;

  // `vocab_size`: of the engine; logits have so many values a row.
  Delta(const enginery_event& event, uint64_t vocab_size);
  // Appends what a later one of the same sequence brings.
  void Add(Delta later);
};

// A finish reason in the words of responses and logs; "" for none.
std::string_view FinishReason(int32_t reason);

// Joins what belongs to the same sequence, so that a sender that fell behind catches up. At most
// one per sequence comes out; what was a request's last stays its last, and what it is told of its
// prompt comes with its first.
std::vector<Delta> Merge(std::vector<Delta> deltas);

// Writes the responses to one request of the runtime, in order.
class EventWriter {
 public:
  virtual ~EventWriter() = default;
  // The outputs for what is new of a sequence; none: nothing is sent yet.
  virtual std::vector<OutputTensor> Write(Delta delta) = 0;
};

// Those of the layout `enginery`.
class ResponseWriter : public EventWriter {
 public:
  // `prompt`: repeated where the options say so.
  ResponseWriter(ResponseOptions options, std::vector<int32_t> prompt)
      : options_(options), prompt_(std::move(prompt)) {}

  std::vector<OutputTensor> Write(Delta delta) override;

 private:
  ResponseOptions options_;
  std::vector<int32_t> prompt_;
  std::set<int32_t> started_;
  std::map<int32_t, double> cum_log_probs_;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_RESPONSES_H_
