// SPDX-License-Identifier: Apache-2.0
#include "sample/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "sample/logit_adjuster.h"
#include "sample/logit_scan.h"
#include "sample/philox.h"

namespace enginery {

Sampler::Sampler(int64_t vocab_size)
    : adjusted_(static_cast<size_t>(vocab_size)),
      weights_(static_cast<size_t>(vocab_size)),
      chunk_sums_((static_cast<size_t>(vocab_size) + kWeightChunk - 1) / kWeightChunk) {}

SampleResult Sampler::Sample(const SamplingParams& params, const SampleContext& context,
                             std::span<const float> logits) {
  LogitMax max = FindMax(logits);
  if (!max.is_valid) return {SampleStatus::kNotFinite, -1};
  if (NeedsAdjustment(params, context.num_output_tokens())) {
    std::copy(logits.begin(), logits.end(), adjusted_.begin());
    logits = adjusted_;
    AdjustLogits(params, context.token_ids, context.num_prompt_tokens, context.counts, adjusted_);
    max = FindMax(logits);
    if (!max.is_valid) return {SampleStatus::kNotFinite, -1};  // penalties overflowed
  }
  if (max.value == -std::numeric_limits<float>::infinity()) return {SampleStatus::kNoToken, -1};
  if (params.temperature == 0.0f || params.top_k == 1) return {SampleStatus::kOk, max.token_id};
  const double u = UniformAt(params.seed, context.sequence_index,
                             static_cast<uint32_t>(context.token_ids.size()));
  return {SampleStatus::kOk, Draw(params, logits, max.value, u)};
}

int32_t Sampler::Draw(const SamplingParams& params, std::span<const float> logits, float max,
                      double u) {
  candidates_.clear();
  double total = 0.0;
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < logits.size()) {
    KeepTopK(params, logits, max);
    for (const Candidate& candidate : candidates_) total += static_cast<double>(candidate.weight);
  } else {
    total = ComputeWeights(logits, max, params.temperature, weights_.data(), chunk_sums_.data());
    if (params.top_p == 1.0f && params.min_p == 0.0f) return DrawFromAll(logits, total, u);
    // Tokens of at most the threshold's weight have together at most the share 1 - top_p, so top_p
    // keeps none of them: few are left to be ranked. Rounded down, it only leaves a few more.
    const double threshold =
        (1.0 - static_cast<double>(params.top_p)) * total / static_cast<double>(logits.size());
    const float least = std::max(params.min_p, std::nextafter(static_cast<float>(threshold), 0.0f));
    ForEachAtLeast({weights_.data(), logits.size()}, least, [&](size_t i) {
      candidates_.push_back({weights_[i], static_cast<int32_t>(i)});
    });
  }
  if (params.top_p < 1.0f) KeepTopP(static_cast<double>(params.top_p), total);
  // The likeliest token has weight 1, whatever was left out.
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < params.min_p; });
  return DrawFromCandidates(u);
}

int32_t Sampler::DrawFromAll(std::span<const float> logits, double total, double u) const {
  double target = u * total;
  size_t chunk = 0;
  while (chunk + 1 < chunk_sums_.size() && target >= chunk_sums_[chunk]) {
    target -= chunk_sums_[chunk++];
  }
  // Rounding may carry the target past the last weight of its chunk; the last token with any
  // weight is taken then. One with none never is.
  int32_t last = -1;
  double sum = 0.0;
  const size_t end = std::min((chunk + 1) * kWeightChunk, logits.size());
  for (size_t i = chunk * kWeightChunk; i < end; ++i) {
    if (weights_[i] == 0.0f) continue;
    last = static_cast<int32_t>(i);
    sum += static_cast<double>(weights_[i]);
    if (target < sum) return last;
  }
  for (size_t i = chunk * kWeightChunk; last < 0 && i-- > 0;) {
    if (weights_[i] > 0.0f) last = static_cast<int32_t>(i);
  }
  return last;
}

int32_t Sampler::DrawFromCandidates(double u) const {
  double total = 0.0;
  for (const Candidate& candidate : candidates_) total += static_cast<double>(candidate.weight);
  const double target = u * total;
  int32_t last = -1;
  double sum = 0.0;
  for (const Candidate& candidate : candidates_) {
    if (candidate.weight == 0.0f) continue;
    last = candidate.token_id;
    sum += static_cast<double>(candidate.weight);
    if (target < sum) break;
  }
  return last;
}

void Sampler::KeepTopK(const SamplingParams& params, std::span<const float> logits, float max) {
  TopKBound bound = FindTopK(logits, static_cast<size_t>(params.top_k), weights_.data());
  ForEachAtLeast(logits, bound.value, [&](size_t i) {
    if (logits[i] == bound.value) {
      if (bound.num_equal == 0) return;
      --bound.num_equal;
    }
    candidates_.push_back(
        {ExpNonPositive((logits[i] - max) / params.temperature), static_cast<int32_t>(i)});
  });
}

void Sampler::KeepTopP(double top_p, double total) {
  // The smallest set of first-ranked candidates with the share top_p ends at a rank that is found
  // by halving: each half is ordered only against the other.
  const double wanted = top_p * total;
  ranked_ = candidates_;
  auto begin = ranked_.begin();
  auto end = ranked_.end();
  double sum = 0.0;  // of those before begin
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end);
    double half = 0.0;
    for (auto it = begin; it != middle; ++it) half += static_cast<double>(it->weight);
    if (sum + half >= wanted) {
      end = middle;
    } else {
      sum += half;
      begin = middle;
    }
  }
  const Candidate last = *begin;
  std::erase_if(candidates_, [&](const Candidate& c) { return last < c; });
}

}  // namespace enginery
