// SPDX-License-Identifier: Apache-2.0
//
// From the runtime's events to the output tensors of responses.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_RESPONSES_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_RESPONSES_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "enginery/enginery.h"
#include "generation_request.h"
#include "tensors.h"

namespace enginery::triton {

// What is new of one sequence: one event, or several that piled up. Owns what it holds.
struct Delta {
  uint64_t request_id = 0;
  int32_t sequence_index = 0;
  int32_t finish_reason = ENGINERY_FINISH_NONE;
  bool is_last = false;
  enginery_status status = ENGINERY_OK;
  std::string error;
  std::vector<int32_t> token_ids;
  std::string text;
  std::vector<float> log_probs;  // of the tokens drawn, where they were asked for
  int64_t num_prompt_tokens = 0;
  int64_t num_reused_tokens = 0;
  int64_t num_output_tokens = 0;
  int64_t arrival_ns = 0;
  int64_t first_scheduled_ns = 0;
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;

  explicit Delta(const enginery_event& event);
  // Appends what a later one of the same sequence brings.
  void Add(Delta later);
};

// Joins what belongs to the same sequence, so that a sender that fell behind catches up. At most
// one per sequence comes out; what was a request's last stays its last.
std::vector<Delta> Merge(std::vector<Delta> deltas);

// One output of a response, in the bytes that Triton server takes.
struct OutputTensor {
  const TensorSpec* spec = nullptr;
  int64_t num_elements = 0;
  std::string data;
};

// Writes the responses of one request, in order.
class ResponseWriter {
 public:
  // `prompt`: repeated where the options say so.
  ResponseWriter(ResponseOptions options, std::vector<int32_t> prompt)
      : options_(options), prompt_(std::move(prompt)) {}

  std::vector<OutputTensor> Write(Delta delta);

 private:
  ResponseOptions options_;
  std::vector<int32_t> prompt_;
  std::set<int32_t> started_;
  std::map<int32_t, double> cum_log_probs_;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_RESPONSES_H_
