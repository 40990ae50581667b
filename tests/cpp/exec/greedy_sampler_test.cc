// SPDX-License-Identifier: Apache-2.0
#include "exec/greedy_sampler.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "sample/sampler.h"

namespace enginery::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kLargeVocab = 151936;

enginery_sample_record Record(int32_t logit_row, uint32_t flags = ENGINERY_SAMPLE_GREEDY,
                              int32_t top_k = 0) {
  enginery_sample_record record{};
  record.logit_row = logit_row;
  record.flags = flags;
  record.temperature = (flags & ENGINERY_SAMPLE_GREEDY) != 0 ? 0.0f : 0.8f;
  record.top_p = 1.0f;
  record.top_k = top_k;
  return record;
}

// Rows of logits with a gap between them, as a workspace may have it: what stands there is larger
// than any logit.
class Logits {
 public:
  Logits(int64_t num_rows, int64_t vocab_size)
      : vocab_size_(vocab_size), values_(static_cast<size_t>(num_rows * pitch()), 1e30f) {
    for (int64_t r = 0; r < num_rows; ++r) {
      for (float& x : row(r)) x = 0.0f;
    }
  }
  std::span<float> row(int64_t r) {
    return std::span(values_).subspan(static_cast<size_t>(r * pitch()),
                                      static_cast<size_t>(vocab_size_));
  }
  std::vector<int32_t> Tokens(GreedySampler& sampler, ThreadPool& pool,
                              const std::vector<enginery_sample_record>& records) {
    const Matrix matrix = {reinterpret_cast<std::byte*>(values_.data()), 4 * pitch(), nullptr};
    sampler.Run(records, matrix, vocab_size_, pool);
    return {sampler.token_ids().begin(), sampler.token_ids().end()};
  }
  std::vector<int32_t> Tokens(const std::vector<enginery_sample_record>& records) {
    GreedySampler sampler;
    ThreadPool pool(2);
    return Tokens(sampler, pool, records);
  }

 private:
  int64_t pitch() const { return vocab_size_ + 3; }

  int64_t vocab_size_;
  std::vector<float> values_;
};

SampleResult Sampled(std::span<const float> logits, float temperature, int32_t top_k) {
  Sampler sampler(static_cast<int64_t>(logits.size()));
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = top_k;
  TokenCounts counts;
  SampleContext context;
  context.counts = &counts;
  return sampler.Sample(params, context, logits);
}

// Normal ones, or few values so that the largest is there many times.
void Fill(std::span<float> row, bool has_ties, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 3.0f);
  for (float& x : row) x = has_ties ? static_cast<float>(random() % 7) - 3.0f : normal(random);
}

TEST(tokens_are_those_of_the_sampler) {
  std::mt19937 random(1);
  for (const int num_threads : {1, 2, 3}) {
    ThreadPool pool(num_threads);
    GreedySampler sampler;
    for (const int64_t vocab_size :
         {int64_t{1}, int64_t{111}, int64_t{8192}, int64_t{8193}, int64_t{32000}, kLargeVocab}) {
      for (const bool has_ties : {false, true}) {
        for (const int64_t num_rows : {1, 5}) {
          Logits logits(num_rows, vocab_size);
          std::vector<enginery_sample_record> records;
          for (int64_t r = 0; r < num_rows; ++r) {
            Fill(logits.row(r), has_ties, random);
            // By turns the two kinds of greedy.
            records.push_back(Record(static_cast<int32_t>(r), r % 2 == 0, r % 2 == 0 ? 0 : 1));
          }
          const std::vector<int32_t> tokens = logits.Tokens(sampler, pool, records);
          REQUIRE_EQ(tokens.size(), records.size());
          for (size_t r = 0; r < tokens.size(); ++r) {
            const SampleResult expected = Sampled(logits.row(static_cast<int64_t>(r)),
                                                  records[r].temperature, records[r].top_k);
            CHECK(expected.status == SampleStatus::kOk);
            CHECK_EQ(tokens[r], expected.token_id);
          }
        }
      }
    }
  }
}

TEST(of_equal_logits_the_lowest_id_wins_wherever_they_stand) {
  const std::vector<int32_t> places = {0, 8191, 8192, 16383, 16384, 100000, kLargeVocab - 1};
  for (size_t i = 0; i < places.size(); ++i) {
    Logits logits(1, kLargeVocab);
    for (size_t j = i; j < places.size(); ++j) {
      logits.row(0)[static_cast<size_t>(places[j])] = 2.0f;
    }
    CHECK_EQ(logits.Tokens({Record(0)})[0], places[i]);
  }
  // The two zeros are equal.
  Logits zeros(1, kLargeVocab);
  for (float& x : zeros.row(0)) x = -1.0f;
  zeros.row(0)[9000] = -0.0f;
  zeros.row(0)[90000] = 0.0f;
  CHECK_EQ(zeros.Tokens({Record(0)})[0], 9000);
  CHECK_EQ(Sampled(zeros.row(0), 0.0f, 0).token_id, 9000);
}

TEST(rows_that_the_sampler_refuses_are_left_to_it) {
  for (const int64_t vocab_size : {int64_t{1}, int64_t{111}, kLargeVocab}) {
    for (const int64_t place : {int64_t{0}, vocab_size / 2, vocab_size - 1}) {
      for (const float bad : {std::nanf(""), -std::nanf(""), kInfinity}) {
        Logits logits(3, vocab_size);
        logits.row(1)[static_cast<size_t>(place)] = bad;
        const std::vector<int32_t> tokens = logits.Tokens({Record(0), Record(1), Record(2)});
        CHECK(tokens == (std::vector<int32_t>{0, -1, 0}));
        CHECK(Sampled(logits.row(1), 0.0f, 0).status == SampleStatus::kNotFinite);
      }
    }
    Logits logits(1, vocab_size);
    for (float& x : logits.row(0)) x = -kInfinity;
    CHECK_EQ(logits.Tokens({Record(0)})[0], -1);
    CHECK(Sampled(logits.row(0), 0.0f, 0).status == SampleStatus::kNoToken);
    logits.row(0)[static_cast<size_t>(vocab_size - 1)] = std::numeric_limits<float>::lowest();
    CHECK_EQ(logits.Tokens({Record(0)})[0], vocab_size - 1);
  }
}

TEST(records_that_want_more_are_left_to_the_sampler) {
  Logits logits(4, 111);
  for (int64_t r = 0; r < 4; ++r) logits.row(r)[static_cast<size_t>(10 * r)] = 1.0f;
  constexpr uint32_t kGreedyOnHost = ENGINERY_SAMPLE_GREEDY | ENGINERY_SAMPLE_HOST_ONLY;
  // Rows in any order; two records of one row, as a sequence that is about to fork has them.
  const std::vector<int32_t> tokens =
      logits.Tokens({Record(3), Record(0, kGreedyOnHost), Record(1, 0), Record(1, 0, 2),
                     Record(2, ENGINERY_SAMPLE_HOST_ONLY, 1), Record(2), Record(2), Record(1)});
  CHECK(tokens == (std::vector<int32_t>{30, -1, -1, -1, -1, 20, 20, 10}));
  CHECK(logits.Tokens({Record(0, kGreedyOnHost), Record(1, 0)}).empty());
  CHECK(logits.Tokens({}).empty());
}

TEST(a_step_leaves_nothing_to_the_next) {
  ThreadPool pool(2);
  GreedySampler sampler;
  Logits logits(3, 20000);
  logits.row(0)[19999] = 1.0f;
  logits.row(1)[3] = std::nanf("");
  CHECK(logits.Tokens(sampler, pool, {Record(0), Record(1), Record(2)}) ==
        (std::vector<int32_t>{19999, -1, 0}));
  CHECK(logits.Tokens(sampler, pool, {Record(1, 0)}).empty());
  CHECK(logits.Tokens(sampler, pool, {Record(1, 0), Record(2)}) == (std::vector<int32_t>{-1, 0}));
}

}  // namespace
}  // namespace enginery::test
