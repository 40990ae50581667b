// SPDX-License-Identifier: Apache-2.0
#include "sample/logit_scan.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <limits>

namespace enginery {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kLanes = 16;

// Order-preserving: a < b as floats exactly when as keys (-0 and +0 are made one).
uint32_t OrderedKey(float x) {
  const auto bits = std::bit_cast<uint32_t>(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

}  // namespace

LogitMax FindMax(std::span<const float> logits) {
  constexpr size_t kBlock = 1024;  // stays in the first-level cache for the second look
  LogitMax max = {-kInfinity, 0, true};
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const std::span<const float> block =
        logits.subspan(begin, std::min(kBlock, logits.size() - begin));
    std::array<float, kLanes> lanes;
    std::array<int32_t, kLanes> is_bad = {};
    lanes.fill(-kInfinity);
    size_t i = 0;
    for (; i + kLanes <= block.size(); i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const float x = block[i + lane];
        lanes[lane] = x > lanes[lane] ? x : lanes[lane];
        is_bad[lane] |= !(x < kInfinity) ? 1 : 0;
      }
    }
    for (; i < block.size(); ++i) {
      lanes[0] = block[i] > lanes[0] ? block[i] : lanes[0];
      is_bad[0] |= !(block[i] < kInfinity) ? 1 : 0;
    }
    if (*std::max_element(is_bad.begin(), is_bad.end()) != 0) max.is_valid = false;
    const float block_max = *std::max_element(lanes.begin(), lanes.end());
    if (block_max > max.value) {
      const auto place = std::find(block.begin(), block.end(), block_max);
      max.value = block_max;
      max.token_id = static_cast<int32_t>(begin + static_cast<size_t>(place - block.begin()));
    }
  }
  return max;
}

float ExpNonPositive(float x) {
  // exp(x) = 2^n exp(r), |r| <= ln(2) / 2; Cody and Waite's two-part ln(2), and a polynomial that
  // is exp's Taylor series to degree 7 (error below 2^-26 there).
  constexpr float kMin = -87.0f;
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float clamped = x < kMin ? kMin : x;
  const float n = (clamped * kLog2E + kRound) - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const float scale = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return x < kMin ? 0.0f : p * scale;
}

double ComputeWeights(std::span<const float> logits, float max, float temperature, float* weights,
                      double* chunk_sums) {
  double total = 0.0;
  for (size_t begin = 0; begin < logits.size(); begin += kWeightChunk) {
    const size_t end = std::min(begin + kWeightChunk, logits.size());
    for (size_t i = begin; i < end; ++i) {
      weights[i] = ExpNonPositive((logits[i] - max) / temperature);
    }
    // Divide, not multiply by the reciprocal: that of a tiny temperature is infinite.
    double sum = 0.0;
    for (size_t i = begin; i < end; ++i) sum += static_cast<double>(weights[i]);
    *chunk_sums++ = sum;
    total += sum;
  }
  return total;
}

TopKBound FindTopK(std::span<const float> logits, size_t k, float* scratch) {
  // A histogram of the keys' high bits (sign, exponent, 3 bits of mantissa) finds the bin of rank
  // k in one pass; only its members are ordered.
  constexpr int kShift = 20;
  std::array<uint32_t, 1u << (32 - kShift)> histogram = {};
  for (const float x : logits) ++histogram[OrderedKey(x) >> kShift];
  size_t bin = histogram.size() - 1;
  size_t num_above = 0;
  while (num_above + histogram[bin] < k) num_above += histogram[bin--];
  size_t num_members = 0;
  for (const float x : logits) {
    if (OrderedKey(x) >> kShift == bin) scratch[num_members++] = x;
  }
  const size_t rank = k - num_above;  // in the bin, 1-based
  std::nth_element(scratch, scratch + (rank - 1), scratch + num_members, std::greater<>());
  const float value = scratch[rank - 1];
  const auto num_greater = static_cast<size_t>(
      std::count_if(scratch, scratch + (rank - 1), [value](float x) { return x > value; }));
  return {value, rank - num_greater};
}

}  // namespace enginery
