// SPDX-License-Identifier: Apache-2.0
#include "sample/logit_scan.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>

namespace enginery {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Vectors of the compiler's, four lanes wide: every x86-64 and AArch64 has these instructions, and
// elsewhere they are lowered to scalars with the same results.
constexpr size_t kLanes = 4;
using Floats = float __attribute__((vector_size(16)));
using Ints = int32_t __attribute__((vector_size(16)));
using Doubles = double __attribute__((vector_size(32)));

Floats Load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

// exp(x) = 2^n exp(r), |r| <= ln(2) / 2; Cody and Waite's two-part ln(2), and a polynomial that is
// exp's Taylor series to degree 7 (error below 2^-26 there).
inline Floats Exp(Floats x) {
  constexpr float kMin = -87.0f;
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Ints is_zero = x < kMin;
  const Floats clamped = is_zero ? Floats{} + kMin : x;
  const Floats n = (clamped * kLog2E + kRound) - kRound;
  const Floats r = (clamped - n * kLn2High) - n * kLn2Low;
  Floats p = Floats{} + 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  return p * std::bit_cast<Floats>(exponent & ~is_zero);
}

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
    std::array<Floats, 4> lanes;
    lanes.fill(Floats{} - kInfinity);
    Ints is_bad = {};
    const auto look = [&](const Floats& x, Floats* lane) {
      *lane = x > *lane ? x : *lane;
      is_bad |= ~(x < kInfinity);
    };
    size_t i = 0;
    for (; i + 4 * kLanes <= block.size(); i += 4 * kLanes) {
      for (size_t j = 0; j < 4; ++j) look(Load(&block[i + j * kLanes]), &lanes[j]);
    }
    for (; i < block.size(); ++i) look(Floats{} + block[i], &lanes[0]);
    float block_max = -kInfinity;
    for (const Floats& lane : lanes) {
      for (size_t j = 0; j < kLanes; ++j) block_max = std::max(block_max, lane[j]);
    }
    for (size_t j = 0; j < kLanes; ++j) max.is_valid = max.is_valid && is_bad[j] == 0;
    if (block_max > max.value) {
      const auto place = std::find(block.begin(), block.end(), block_max);
      max.value = block_max;
      max.token_id = static_cast<int32_t>(begin + static_cast<size_t>(place - block.begin()));
    }
  }
  return max;
}

float ExpNonPositive(float x) { return Exp(Floats{} + x)[0]; }

double ComputeWeights(std::span<const float> logits, float max, float temperature, float* weights,
                      double* chunk_sums) {
  double total = 0.0;
  for (size_t begin = 0; begin < logits.size(); begin += kWeightChunk) {
    const size_t end = std::min(begin + kWeightChunk, logits.size());
    Doubles sums = {};
    for (size_t i = begin; i < end; i += kLanes) {
      const size_t bytes = std::min(kLanes, end - i) * sizeof(float);
      Floats x = Floats{} - kInfinity;  // lanes past the end weigh nothing
      if (bytes == sizeof x) {
        x = Load(&logits[i]);
      } else {
        std::memcpy(&x, &logits[i], bytes);
      }
      // Divide, not multiply by the reciprocal: that of a tiny temperature is infinite.
      x = Exp((x - max) / temperature);
      std::memcpy(&weights[i], &x, bytes);
      sums += __builtin_convertvector(x, Doubles);
    }
    const double sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
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
