// SPDX-License-Identifier: Apache-2.0
//
// Frequencies against the probabilities that a plain float64 reference gives; what may never be
// drawn, never is. Seeds are fixed: a test either always passes or always fails.
#include "sample/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "base/str_cat.h"
#include "check.h"

namespace enginery::test {
namespace {

using Logits = std::vector<float>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

Logits RandomLogits(size_t size, uint32_t seed, float spread = 2.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  Logits logits(size);
  for (float& x : logits) x = normal(random);
  return logits;
}

struct Draws {
  std::vector<int32_t> prompt = {0};
  TokenCounts counts;

  SampleResult At(const SamplingParams& params, const Logits& logits, uint32_t sequence_index) {
    Sampler sampler(static_cast<int64_t>(logits.size()));
    return With(&sampler, params, logits, sequence_index);
  }
  SampleResult With(Sampler* sampler, const SamplingParams& params, const Logits& logits,
                    uint32_t sequence_index, int64_t num_prompt_tokens = 1) {
    SampleContext context;
    context.token_ids = prompt;
    context.num_prompt_tokens = num_prompt_tokens;
    context.sequence_index = sequence_index;
    context.counts = &counts;
    return sampler->Sample(params, context, logits);
  }
};

int32_t Greedy(const SamplingParams& params, const Logits& logits, std::vector<int32_t> tokens,
               int64_t num_prompt_tokens) {
  Sampler sampler(static_cast<int64_t>(logits.size()));
  Draws draws;
  draws.prompt = std::move(tokens);
  return draws.With(&sampler, params, logits, 0, num_prompt_tokens).token_id;
}

// Probabilities by sorting everything.
std::vector<double> Reference(const SamplingParams& params, const Logits& logits) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < order.size()) {
    order.resize(static_cast<size_t>(params.top_k));
  }
  std::vector<double> weights;
  for (const size_t id : order) {
    weights.push_back(std::exp(static_cast<double>(logits[id] - logits[order[0]]) /
                               static_cast<double>(params.temperature)));
  }
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<double> probabilities(logits.size(), 0.0);
  double sum = 0.0;
  double kept = 0.0;
  for (size_t rank = 0; rank < order.size() && sum < static_cast<double>(params.top_p) * total;
       ++rank) {
    sum += weights[rank];
    if (weights[rank] < static_cast<double>(params.min_p)) continue;
    probabilities[order[rank]] = weights[rank];
    kept += weights[rank];
  }
  for (double& p : probabilities) p /= kept;
  return probabilities;
}

// Draws often and compares counts with probabilities by chi-squared.
void CheckFrequencies(const SamplingParams& params, const Logits& logits) {
  constexpr uint32_t kDraws = 40'000;
  const std::vector<double> expected = Reference(params, logits);
  std::vector<int> counts(logits.size(), 0);
  Sampler sampler(static_cast<int64_t>(logits.size()));
  Draws draws;
  for (uint32_t i = 0; i < kDraws; ++i) {
    const SampleResult result = draws.With(&sampler, params, logits, i);
    REQUIRE(result.status == SampleStatus::kOk);
    ++counts[static_cast<size_t>(result.token_id)];
  }
  double chi_squared = 0.0;
  int num_bins = 0;
  double rare_expected = 0.0;
  int rare = 0;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (expected[id] == 0.0) {
      if (counts[id] != 0) fail(__FILE__, __LINE__, StrCat("token ", id, " has probability 0"));
      continue;
    }
    const double mean = expected[id] * kDraws;
    if (mean < 10.0) {  // too few for the approximation: one bin for all of them
      rare_expected += mean;
      rare += counts[id];
      continue;
    }
    chi_squared += (counts[id] - mean) * (counts[id] - mean) / mean;
    ++num_bins;
  }
  if (rare_expected >= 10.0) {
    chi_squared += (rare - rare_expected) * (rare - rare_expected) / rare_expected;
    ++num_bins;
  }
  // Mean num_bins - 1, variance twice that; 4.5 deviations.
  const double freedom = std::max(1, num_bins - 1);
  CHECK_LT(chi_squared, freedom + 4.5 * std::sqrt(2.0 * freedom));
}

TEST(frequencies_of_every_kind_of_draw) {
  for (const size_t vocab : {1u, 2u, 19u, 111u, 989u}) {
    const Logits logits = RandomLogits(vocab, static_cast<uint32_t>(vocab));
    SamplingParams params;
    CheckFrequencies(params, logits);
    params.seed = 1234567890123;
    params.temperature = 0.7f;
    CheckFrequencies(params, logits);
    params.top_k = 7;
    CheckFrequencies(params, logits);
    params.top_p = 0.8f;
    CheckFrequencies(params, logits);
    params.top_k = 0;
    CheckFrequencies(params, logits);
    params.min_p = 0.1f;
    CheckFrequencies(params, logits);
    params.top_p = 1.0f;
    CheckFrequencies(params, logits);
    params.min_p = 0.0f;
    params.temperature = 20.0f;  // nearly flat
    CheckFrequencies(params, logits);
  }
}

// Each token that top_k, top_p and min_p leave, and no other, at many settings.
TEST(the_tokens_left_are_those_of_the_reference) {
  std::mt19937 random(5);
  for (int round = 0; round < 60; ++round) {
    const Logits logits = RandomLogits(23, random(), 1.5f);
    SamplingParams params;
    params.top_k = static_cast<int32_t>(random() % 24);
    params.top_p = 0.05f + 0.95f * static_cast<float>(random() % 1000) / 1000.0f;
    params.min_p = round % 2 == 0 ? 0.0f : static_cast<float>(random() % 100) / 200.0f;
    const std::vector<double> expected = Reference(params, logits);
    std::vector<bool> seen(logits.size(), false);
    Sampler sampler(23);
    Draws draws;
    for (uint32_t i = 0; i < 20'000; ++i) {
      seen[static_cast<size_t>(draws.With(&sampler, params, logits, i).token_id)] = true;
    }
    for (size_t id = 0; id < logits.size(); ++id) {
      if (expected[id] == 0.0) CHECK(!seen[id]);
      if (expected[id] > 1e-3) CHECK(seen[id]);
    }
  }
}

TEST(ties_rank_by_token_id) {
  const Logits flat(40, 0.5f);
  SamplingParams params;
  Draws draws;
  Sampler sampler(40);
  params.top_k = 3;
  for (uint32_t i = 0; i < 500; ++i) CHECK_LT(draws.With(&sampler, params, flat, i).token_id, 3);
  params.top_k = 0;
  params.top_p = 0.125f;  // five of forty
  for (uint32_t i = 0; i < 500; ++i) CHECK_LT(draws.With(&sampler, params, flat, i).token_id, 5);
  params.temperature = 0.0f;
  CHECK_EQ(draws.At(params, flat, 9).token_id, 0);
  params.temperature = 1.0f;
  params.top_k = 1;
  CHECK_EQ(draws.At(params, flat, 9).token_id, 0);
}

TEST(a_token_of_probability_zero_is_never_drawn) {
  // Masked tokens around few that can be drawn, at the ends and across chunks.
  Logits logits(600, -kInfinity);
  for (const size_t id : {3u, 255u, 256u, 590u}) logits[id] = 1.0f;
  logits[400] = -200.0f;  // its weight underflows
  SamplingParams params;
  Sampler sampler(600);
  Draws draws;
  for (const float top_p : {1.0f, 0.99f}) {
    params.top_p = top_p;
    for (uint32_t i = 0; i < 20'000; ++i) {
      const int32_t id = draws.With(&sampler, params, logits, i).token_id;
      CHECK(id == 3 || id == 255 || id == 256 || id == 590);
    }
  }
}

TEST(the_draw_depends_on_seed_index_and_position_alone) {
  const Logits logits = RandomLogits(300, 8);
  SamplingParams params;
  params.seed = 5;
  Sampler warm(300);
  Draws draws;
  for (uint32_t i = 0; i < 50; ++i) draws.With(&warm, params, RandomLogits(300, i), i);
  for (uint32_t i = 0; i < 50; ++i) {
    CHECK_EQ(draws.With(&warm, params, logits, i).token_id, draws.At(params, logits, i).token_id);
  }
  int num_different = 0;
  for (uint32_t i = 0; i < 50; ++i) {
    SamplingParams other = params;
    other.seed = 6;
    num_different += draws.At(params, logits, i).token_id != draws.At(other, logits, i).token_id;
  }
  CHECK_GT(num_different, 25);
}

TEST(hostile_logits_are_refused) {
  SamplingParams params;
  Draws draws;
  for (const float temperature : {0.0f, 1.0f}) {
    params.temperature = temperature;
    Logits logits(40, 1.0f);
    logits[33] = std::nanf("");
    CHECK(draws.At(params, logits, 0).status == SampleStatus::kNotFinite);
    logits[33] = kInfinity;
    CHECK(draws.At(params, logits, 0).status == SampleStatus::kNotFinite);
    const Logits masked(40, -kInfinity);
    CHECK(draws.At(params, masked, 0).status == SampleStatus::kNoToken);
    logits[33] = std::numeric_limits<float>::max();
    CHECK(draws.At(params, logits, 0).token_id == 33);
    logits.assign(40, std::numeric_limits<float>::lowest());
    CHECK(draws.At(params, logits, 0).status == SampleStatus::kOk);
  }
}

TEST(penalties) {
  const Logits logits = {2.0f, 1.9f, 1.0f, -1.0f};
  SamplingParams params;
  params.temperature = 0.0f;
  CHECK_EQ(Greedy(params, logits, {0, 2}, 2), 0);
  params.repetition_penalty = 1.2f;  // 2.0 / 1.2 < 1.9: the prompt counts
  CHECK_EQ(Greedy(params, logits, {0, 2}, 2), 1);
  params.repetition_penalty = 1.0f;
  params.presence_penalty = 0.2f;  // the output alone counts
  CHECK_EQ(Greedy(params, logits, {0, 0}, 2), 0);
  CHECK_EQ(Greedy(params, logits, {0, 0}, 1), 1);
  params.presence_penalty = 0.0f;
  params.frequency_penalty = 0.06f;  // 2.0 - 0.06 > 1.9 > 2.0 - 0.12
  CHECK_EQ(Greedy(params, logits, {3, 0}, 1), 0);
  CHECK_EQ(Greedy(params, logits, {3, 0, 0}, 1), 1);
  // A negative logit is multiplied: it must not become likelier.
  params = SamplingParams();
  params.temperature = 0.0f;
  params.repetition_penalty = 2.0f;
  CHECK_EQ(Greedy(params, {-1.0f, -1.5f}, {0}, 1), 1);
}

TEST(counts_follow_the_sequence) {
  TokenCounts counts;
  std::vector<int32_t> tokens = {4, 5, 4};
  counts.Update(tokens, 2);
  tokens.push_back(4);
  counts.Update(tokens, 2);
  counts.Update(tokens, 2);  // nothing new
  REQUIRE_EQ(counts.entries().size(), 2);
  CHECK_EQ(counts.entries()[0].token_id, 4);
  CHECK_EQ(counts.entries()[0].num_in_output, 2);
  CHECK_EQ(counts.entries()[1].num_in_output, 0);
}

TEST(bias_and_bans) {
  const Logits logits = {2.0f, 1.9f, 1.0f, -1.0f};
  SamplingParams params;
  params.temperature = 0.0f;
  params.logit_bias = {{3, 3.5f}};
  CHECK_EQ(Greedy(params, logits, {0}, 1), 3);
  params.logit_bias = {{0, -kInfinity}};
  CHECK_EQ(Greedy(params, logits, {0}, 1), 1);
  params.logit_bias.clear();
  params.min_tokens = 2;
  params.end_token_ids = {0, 1};
  CHECK_EQ(Greedy(params, logits, {3}, 1), 2);
  CHECK_EQ(Greedy(params, logits, {3, 3}, 1), 2);
  CHECK_EQ(Greedy(params, logits, {3, 3, 3}, 1), 0);
}

TEST(bad_sequences_are_never_completed) {
  const Logits logits = {2.0f, 1.9f, 1.0f, -1.0f};
  SamplingParams params;
  params.temperature = 0.0f;
  params.bad_token_sequences = {{3, 2, 0}};
  CHECK_EQ(Greedy(params, logits, {3, 2}, 1), 1);
  CHECK_EQ(Greedy(params, logits, {3, 2}, 2), 1);  // it may begin in the prompt
  CHECK_EQ(Greedy(params, logits, {2, 3}, 1), 0);
  CHECK_EQ(Greedy(params, logits, {2}, 1), 0);  // shorter than the sequence
  params.bad_token_sequences = {{0}, {1}};
  CHECK_EQ(Greedy(params, logits, {2}, 1), 2);
  params.bad_token_sequences = {{0}, {1}, {2}, {3}};
  CHECK_EQ(Greedy(params, logits, {2}, 1), -1);
}

TEST(logprobs_are_those_of_the_plain_distribution) {
  for (const size_t vocab : {1u, 5u, 111u, 989u}) {
    const Logits logits = RandomLogits(vocab, 4, 5.0f);
    double sum = 0.0;
    for (const float x : logits) sum += std::exp(static_cast<double>(x));
    std::vector<int32_t> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    const auto num_best = static_cast<int32_t>(std::min<size_t>(vocab, 20));
    std::vector<enginery_logprob> got(static_cast<size_t>(num_best) + 1);
    const auto token = static_cast<int32_t>(vocab / 2);
    ComputeLogprobs(logits, token, num_best, got.data());
    for (size_t i = 0; i < got.size(); ++i) {
      const int32_t id = i == 0 ? token : order[i - 1];
      CHECK_EQ(got[i].token_id, id);
      const double expected = static_cast<double>(logits[static_cast<size_t>(id)]) - std::log(sum);
      CHECK_NEAR(got[i].logprob, expected, 1e-5);
    }
  }
}

TEST(logits_without_a_distribution_have_no_logprob) {
  const Logits plain(300, 1.0f);
  enginery_logprob got[2];
  for (const float bad : {std::nanf(""), kInfinity}) {
    for (const size_t place : {size_t{0}, size_t{17}, size_t{299}}) {
      Logits logits = plain;
      logits[place] = bad;
      ComputeLogprobs(logits, 5, 1, got);
      CHECK(std::isnan(got[0].logprob));
    }
  }
  ComputeLogprobs(Logits(300, -kInfinity), 5, 1, got);
  CHECK(std::isnan(got[0].logprob));
  ComputeLogprobs(plain, 5, 0, got);
  CHECK_NEAR(got[0].logprob, -std::log(300.0), 1e-6);
}

TEST(equal_logprobs_come_by_token_id) {
  const Logits logits = {1.0f, 3.0f, 3.0f, 1.0f, 3.0f, -kInfinity};
  enginery_logprob got[5];
  ComputeLogprobs(logits, 5, 4, got);
  CHECK_EQ(got[0].logprob, -kInfinity);
  const int32_t expected[] = {1, 2, 4, 0};
  for (int i = 0; i < 4; ++i) CHECK_EQ(got[i + 1].token_id, expected[i]);
}

}  // namespace
}  // namespace enginery::test
