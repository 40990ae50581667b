// SPDX-License-Identifier: Apache-2.0
//
// Draws a token from a row of logits.
//
// Order: logits -> (logprobs are taken here) -> penalties, bias and bans (logit_adjuster.h)
//        -> temperature -> top_k -> top_p of what top_k left -> min_p -> one draw.
// Equal logits rank by token id, the lowest first. Greedy (temperature 0) takes the first in rank.
//
// The draw inverts the cumulative distribution in order of token id with the random number of
// (seed, sequence index, position): it depends on this row and these three numbers alone.
#ifndef ENGINERY_SRC_SAMPLE_SAMPLER_H_
#define ENGINERY_SRC_SAMPLE_SAMPLER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "enginery/enginery.h"
#include "sample/sampling_params.h"
#include "sample/token_counts.h"

namespace enginery {

// What the draw is for.
struct SampleContext {
  std::span<const int32_t> token_ids;  // of the sequence: prompt, then output
  int64_t num_prompt_tokens = 0;
  uint32_t sequence_index = 0;
  TokenCounts* counts = nullptr;  // of the sequence

  int64_t num_output_tokens() const {
    return static_cast<int64_t>(token_ids.size()) - num_prompt_tokens;
  }
};

enum class SampleStatus {
  kOk,
  kNotFinite,  // a logit is NaN or +infinity
  kNoToken,    // every token is banned or has logit -infinity
};

struct SampleResult {
  SampleStatus status;
  int32_t token_id;  // -1 unless kOk
};

// Holds scratch memory for one row; one thread at a time.
class Sampler {
 public:
  explicit Sampler(int64_t vocab_size);

  SampleResult Sample(const SamplingParams& params, const SampleContext& context,
                      std::span<const float> logits);

 private:
  struct Candidate {
    float weight;
    int32_t token_id;
    // Rank: heavier first, then lower id.
    bool operator<(const Candidate& other) const {
      return weight != other.weight ? weight > other.weight : token_id < other.token_id;
    }
  };

  int32_t Draw(const SamplingParams& params, std::span<const float> logits, float max, double u);
  int32_t DrawFromAll(std::span<const float> logits, double total, double u) const;
  int32_t DrawFromCandidates(double u) const;
  void KeepTopK(const SamplingParams& params, std::span<const float> logits, float max);
  void KeepTopP(double top_p, double total);

  std::vector<float> adjusted_;  // [vocab_size]
  std::vector<float> weights_;   // [vocab_size]
  std::vector<double> chunk_sums_;
  std::vector<Candidate> candidates_;  // in order of token id
  std::vector<Candidate> ranked_;
};

// Log probabilities of one row before penalties and temperature: out[0] of `token_id`, then of the
// `num_best` likeliest tokens; all NaN where LogSumExp is.
void ComputeLogprobs(std::span<const float> logits, int32_t token_id, int32_t num_best,
                     enginery_logprob* out);

}  // namespace enginery

#endif  // ENGINERY_SRC_SAMPLE_SAMPLER_H_
