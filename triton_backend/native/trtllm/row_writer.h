// SPDX-License-Identifier: Apache-2.0
//
// From the runtime's events to the outputs of `tensorrt_llm`.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_ROW_WRITER_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_ROW_WRITER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "character_gate.h"
#include "engine/token_bytes.h"
#include "native/codec.h"
#include "native/responses.h"

namespace enginery::triton::trtllm {

// What the responses to one row show.
struct RowOptions {
  std::vector<int32_t> repeated_prompt;  // empty: the prompt is not repeated
  std::vector<int32_t> end_token_ids;    // end the output and are no part of it; stop words are
  std::optional<int32_t> batch_index;    // of a request of several rows
  bool is_streaming = false;
  bool has_sequences = false;  // several, told apart by their index
  bool returns_log_probs = false;
  bool returns_generation_logits = false;
  bool returns_perf_metrics = false;
  bool returns_num_input_tokens = false;
  bool returns_num_output_tokens = false;
};

class RowWriter : public EventWriter {
 public:
  RowWriter(RowOptions options, const EngineFacts& engine)
      : options_(std::move(options)),
        token_bytes_(engine.token_bytes),
        tokens_per_block_(static_cast<int64_t>(engine.tokens_per_block)),
        vocab_size_(static_cast<int64_t>(engine.vocab_size)) {}

  // None when all new tokens wait for their next ones.
  std::vector<OutputTensor> Write(Delta delta) override;

 private:
  struct Sequence {
    CharacterGate gate;
    // Not sent yet; with logits where they were asked for, [token_ids][vocab_size].
    std::vector<int32_t> token_ids;
    std::vector<float> logits;
    std::vector<float> log_probs;  // of these and of all that were sent
    int64_t num_sent = 0;
  };

  // Takes what is new; an end token is left out.
  void Hold(Delta& delta, Sequence& sequence) const;
  std::vector<OutputTensor> Outputs(const Delta& delta, Sequence& sequence, size_t num_tokens);
  void AddLogProbs(const Sequence& sequence, TensorList& tensors) const;
  void AddGenerationLogits(const Sequence& sequence, size_t num_tokens, TensorList& tensors) const;
  void AddPerfMetrics(const Delta& delta, TensorList& tensors) const;

  const RowOptions options_;
  const TokenBytes token_bytes_;
  const int64_t tokens_per_block_;
  const int64_t vocab_size_;
  std::map<int32_t, Sequence> sequences_;
  std::vector<float> context_logits_;
};

}  // namespace enginery::triton::trtllm

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_TRTLLM_ROW_WRITER_H_
