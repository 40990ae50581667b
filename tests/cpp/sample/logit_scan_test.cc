// SPDX-License-Identifier: Apache-2.0
#include "sample/logit_scan.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "sample/exp_weights.h"

namespace enginery::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(the_maximum_is_the_first_of_equals) {
  std::mt19937 random(1);
  for (const size_t size : {1u, 2u, 15u, 16u, 17u, 111u, 1023u, 1024u, 1025u, 5000u}) {
    for (int round = 0; round < 20; ++round) {
      std::vector<float> logits(size);
      for (float& x : logits) x = static_cast<float>(random() % 7) - 3.0f;
      const LogitMax max = FindMax(logits);
      const auto expected = std::max_element(logits.begin(), logits.end());
      CHECK_EQ(max.value, *expected);
      CHECK_EQ(max.token_id, expected - logits.begin());
      CHECK(max.is_valid);
    }
  }
}

TEST(nan_and_infinity_are_seen_wherever_they_stand) {
  for (const size_t size : {1u, 16u, 19u, 1040u}) {
    for (size_t place = 0; place < size; place += 3) {
      std::vector<float> logits(size, 1.0f);
      logits[place] = std::nanf("");
      CHECK(!FindMax(logits).is_valid);
      logits[place] = kInfinity;
      CHECK(!FindMax(logits).is_valid);
      logits[place] = -kInfinity;
      CHECK(FindMax(logits).is_valid);
    }
  }
  const std::vector<float> all(20, -kInfinity);
  CHECK(FindMax(all).is_valid);
  CHECK_EQ(FindMax(all).value, -kInfinity);
}

TEST(exp_is_within_two_units_in_the_last_place) {
  for (int i = 0; i <= 870'000; ++i) {
    const float x = -static_cast<float>(i) * 1e-4f;
    const double expected = std::exp(static_cast<double>(x));
    const double unit = std::ldexp(1.0, std::ilogb(expected) - 23);
    if (std::fabs(static_cast<double>(ExpNonPositive(x)) - expected) > 2.0 * unit) {
      fail(__FILE__, __LINE__, "exp(" + show(x) + ") is off");
      return;
    }
  }
  CHECK_EQ(ExpNonPositive(0.0f), 1.0f);
  CHECK_EQ(ExpNonPositive(-0.0f), 1.0f);
  CHECK_EQ(ExpNonPositive(-87.1f), 0.0f);
  CHECK_EQ(ExpNonPositive(-1e30f), 0.0f);
  CHECK_EQ(ExpNonPositive(-kInfinity), 0.0f);
}

TEST(weights_and_their_sums) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0.0f, 4.0f);
  for (const size_t size : {1u, 255u, 256u, 257u, 1000u}) {
    std::vector<float> logits(size);
    for (float& x : logits) x = normal(random);
    const float max = FindMax(logits).value;
    std::vector<float> weights(size);
    std::vector<double> sums(size / kWeightChunk + 1);
    const double total = ComputeWeights(logits, max, 0.7f, weights.data(), sums.data());
    double expected = 0.0;
    for (size_t i = 0; i < size; ++i) {
      CHECK_NEAR(weights[i], std::exp((logits[i] - max) / 0.7f), 1e-6);
      expected += static_cast<double>(weights[i]);
    }
    CHECK_NEAR(total, expected, 1e-9);
  }
}

// Sequences may move between machines: a draw is the same on each.
TEST(weights_are_the_same_bits_in_every_instruction_set) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(-20.0f, 30.0f);
  const std::vector<ExpWeights> variants = ExpWeightsVariants();
  for (const size_t size : {1u, 7u, 8u, 15u, 16u, 17u, 31u, 111u, 256u}) {
    for (const float temperature : {1.0f, 0.7f, 3.0f, 1e-42f}) {
      std::vector<float> logits(size);
      for (float& x : logits) x = std::min(normal(random), 0.0f);
      logits[size / 2] = -kInfinity;
      std::vector<float> expected(size);
      const double total = variants.back()(logits.data(), size, 0.0f, temperature, expected.data());
      for (const ExpWeights variant : variants) {
        std::vector<float> weights(size + 1, -1.0f);
        CHECK_EQ(variant(logits.data(), size, 0.0f, temperature, weights.data()), total);
        CHECK_EQ(weights.back(), -1.0f);  // nothing is written past the end
        weights.pop_back();
        CHECK(weights == expected);
      }
    }
  }
}

TEST(large_logits_are_found_in_order) {
  std::mt19937 random(5);
  for (const size_t size : {1u, 15u, 16u, 17u, 500u}) {
    std::vector<float> logits(size);
    for (float& x : logits) x = static_cast<float>(random() % 50);
    for (const float bound : {-kInfinity, 20.0f, 48.0f, 99.0f}) {
      std::vector<size_t> found;
      ForEachAtLeast(logits, bound, [&](size_t i) { found.push_back(i); });
      std::vector<size_t> expected;
      for (size_t i = 0; i < size; ++i) {
        if (logits[i] >= bound) expected.push_back(i);
      }
      CHECK(found == expected);
    }
  }
}

TEST(tiny_temperatures_leave_the_likeliest) {
  const std::vector<float> logits = {1.0f, 2.0f, -kInfinity};
  std::vector<float> weights(3);
  double sum = 0.0;
  ComputeWeights(logits, 2.0f, 1e-42f, weights.data(), &sum);
  CHECK(weights == (std::vector<float>{0.0f, 1.0f, 0.0f}));
}

TEST(top_k_agrees_with_a_sort) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  for (const size_t size : {1u, 19u, 111u, 989u, 5003u}) {
    for (const bool has_ties : {false, true}) {
      std::vector<float> logits(size);
      for (float& x : logits) {
        x = has_ties ? static_cast<float>(static_cast<int>(random() % 9) - 4) : normal(random);
      }
      if (size > 3) logits[size / 2] = -kInfinity;
      if (size > 3) logits[size / 3] = -0.0f;
      std::vector<float> sorted = logits;
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      std::vector<float> scratch(size);
      for (size_t k = 1; k <= size; k += 1 + size / 40) {
        const TopKBound bound = FindTopK(logits, k, scratch.data());
        CHECK_EQ(bound.value, sorted[k - 1]);
        const auto num_greater = static_cast<size_t>(
            std::count_if(logits.begin(), logits.end(), [&](float x) { return x > bound.value; }));
        CHECK_EQ(bound.num_equal, k - num_greater);
      }
    }
  }
}

}  // namespace
}  // namespace enginery::test
