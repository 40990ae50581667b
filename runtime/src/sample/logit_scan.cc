// SPDX-License-Identifier: Apache-2.0
#include "sample/logit_scan.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "sample/exp_weights.h"

namespace enginery {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Vectors of the compiler's, four lanes wide: every x86-64 and AArch64 has these instructions, and
// elsewhere they are lowered to scalars with the same results.
constexpr size_t kLanes = 4;
using Floats = float __attribute__((vector_size(16)));
using Ints = int32_t __attribute__((vector_size(16)));

constexpr size_t kTopKBlock = 128;

Floats Load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

// Order-preserving: a < b as floats exactly when as keys (-0 and +0 are made one).
uint32_t OrderedKey(float x) {
  const auto bits = std::bit_cast<uint32_t>(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The first place of `value`, which must be there.
size_t FindFirst(std::span<const float> logits, float value) {
  size_t i = 0;
  for (; i + 4 * kLanes <= logits.size(); i += 4 * kLanes) {
    Ints found = {};
    for (size_t j = 0; j < 4; ++j) found |= Load(&logits[i + j * kLanes]) == value;
    if ((found[0] | found[1] | found[2] | found[3]) != 0) break;
  }
  while (logits[i] != value) ++i;
  return i;
}

}  // namespace

LogitMax FindMax(std::span<const float> logits) {
  constexpr size_t kBlock = 1024;  // looked at once more, the one that has the maximum
  LogitMax max = {-kInfinity, 0, true};
  size_t best = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const std::span<const float> block =
        logits.subspan(begin, std::min(kBlock, logits.size() - begin));
    std::array<Floats, 4> lanes;
    lanes.fill(Floats{} - kInfinity);
    Ints is_good = ~Ints{};
    const auto look = [&](const Floats& x, Floats* lane) {
      *lane = x > *lane ? x : *lane;
      is_good &= x < kInfinity;
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
    for (size_t j = 0; j < kLanes; ++j) max.is_valid = max.is_valid && is_good[j] != 0;
    if (block_max > max.value) {
      max.value = block_max;
      best = begin;
    }
  }
  if (max.value > -kInfinity) {
    max.token_id = static_cast<int32_t>(best + FindFirst(logits.subspan(best), max.value));
  }
  return max;
}

namespace {

ExpWeights FastestExpWeights() {
  static const ExpWeights fastest = ExpWeightsVariants().front();
  return fastest;
}

}  // namespace

double LogSumExp(std::span<const float> logits, float max) {
  const ExpWeights exp_weights = FastestExpWeights();
  float weights[kWeightChunk];
  double total = 0.0;
  for (size_t begin = 0; begin < logits.size(); begin += kWeightChunk) {
    const size_t count = std::min(kWeightChunk, logits.size() - begin);
    total += exp_weights(&logits[begin], count, max, 1.0f, weights);
  }
  return static_cast<double>(max) + std::log(total);
}

double ComputeWeights(std::span<const float> logits, float max, float temperature, float* weights,
                      double* chunk_sums) {
  const ExpWeights exp_weights = FastestExpWeights();
  double total = 0.0;
  for (size_t begin = 0; begin < logits.size(); begin += kWeightChunk) {
    const size_t count = std::min(kWeightChunk, logits.size() - begin);
    *chunk_sums = exp_weights(&logits[begin], count, max, temperature, &weights[begin]);
    total += *chunk_sums++;
  }
  return total;
}

namespace {

// Members of which the rank is among them, `rank` of 1-based.
TopKBound BoundAt(float* members, size_t num_members, size_t rank) {
  std::nth_element(members, members + (rank - 1), members + num_members, std::greater<>());
  const float value = members[rank - 1];
  const auto num_greater = static_cast<size_t>(
      std::count_if(members, members + (rank - 1), [value](float x) { return x > value; }));
  return {value, rank - num_greater};
}

// At least k logits are as large as the k-th largest of the blocks' maxima: the others need not be
// looked at. For k well below the number of blocks, that leaves few.
TopKBound FindTopFew(std::span<const float> logits, size_t k, float* scratch) {
  const size_t num_blocks = logits.size() / kTopKBlock;
  for (size_t b = 0; b < num_blocks; ++b) {
    const float* block = &logits[b * kTopKBlock];
    Floats lanes[4] = {Load(block), Load(block + 4), Load(block + 8), Load(block + 12)};
    for (size_t i = 16; i < kTopKBlock; i += 16) {
      for (size_t j = 0; j < 4; ++j) {
        const Floats x = Load(block + i + 4 * j);
        lanes[j] = x > lanes[j] ? x : lanes[j];
      }
    }
    for (size_t j = 1; j < 4; ++j) lanes[0] = lanes[j] > lanes[0] ? lanes[j] : lanes[0];
    scratch[b] = std::max(std::max(lanes[0][0], lanes[0][1]), std::max(lanes[0][2], lanes[0][3]));
  }
  std::nth_element(scratch, scratch + (k - 1), scratch + num_blocks, std::greater<>());
  const float least = scratch[k - 1];
  size_t num_members = 0;
  ForEachAtLeast(logits, least, [&](size_t i) { scratch[num_members++] = logits[i]; });
  return BoundAt(scratch, num_members, k);
}

}  // namespace

TopKBound FindTopK(std::span<const float> logits, size_t k, float* scratch) {
  if (k <= logits.size() / kTopKBlock / 2) return FindTopFew(logits, k, scratch);
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
  return BoundAt(scratch, num_members, k - num_above);
}

}  // namespace enginery
