// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>
#include <type_traits>

#include "check.h"
#include "kernels/kernels.h"
#include "support/packing.h"

namespace enginery::test {
namespace {

// How a cache stores values: Encode, Decode, what nobody may see, and which kernel reads it.
struct AsF32 {
  using Element = float;
  static constexpr float kScale = 1.0f;
  static float Encode(float value) { return value; }
  static float Decode(float stored) { return stored; }
  static float Unseen() { return std::nanf(""); }
  static constexpr AttentionKernel Kernels::* kKernel = &Kernels::attention_f32;
};
struct AsBf16 {
  using Element = uint16_t;
  static constexpr float kScale = 1.0f;
  static uint16_t Encode(float value) { return ToBf16(value); }
  static float Decode(uint16_t stored) { return FromBf16(stored); }
  static uint16_t Unseen() { return 0x7FC0; }  // NaN
  static constexpr AttentionKernel Kernels::* kKernel = &Kernels::attention_bf16;
};
struct AsI8 {
  using Element = int8_t;
  static constexpr float kScale = 2.0f / 127;
  static int8_t Encode(float value) {
    return static_cast<int8_t>(std::clamp(std::nearbyint(value / kScale), -128.0f, 127.0f));
  }
  static float Decode(int8_t stored) { return kScale * static_cast<float>(stored); }
  static int8_t Unseen() { return 127; }
  static constexpr AttentionKernel Kernels::* kKernel = &Kernels::attention_i8;
};
struct AsE4M3 {
  using Element = uint8_t;
  static constexpr float kScale = 0.25f;
  static uint8_t Encode(float value) { return ToE4M3(value / kScale); }
  static float Decode(uint8_t stored) { return kScale * FromE4M3(stored); }
  static uint8_t Unseen() { return 0x7F; }  // NaN
  static constexpr AttentionKernel Kernels::* kKernel = &Kernels::attention_e4m3;
};

// One KV head of one sequence in a paged cache whose blocks lie in reverse order.
template <class Format>
struct Cache {
  using T = typename Format::Element;
  static constexpr int64_t kElement = sizeof(T), kGroup = kElement == 4 ? 1 : 2;
  int64_t tokens_per_block, head_dim, length;
  AlignedBytes memory;
  std::vector<int32_t> block_table;
  std::vector<float> k, v;  // [length][head_dim], as stored

  Cache(int64_t tokens_per_block, int64_t head_dim, int64_t length)
      : tokens_per_block(tokens_per_block), head_dim(head_dim), length(length) {
    const int64_t num_blocks = (length + tokens_per_block - 1) / tokens_per_block;
    memory.resize(static_cast<size_t>(num_blocks * block_bytes()));
    auto* elements = reinterpret_cast<T*>(memory.data());
    std::fill(elements, elements + memory.size() / sizeof(T), Format::Unseen());
    for (int64_t b = 0; b < num_blocks; ++b) {
      block_table.push_back(static_cast<int32_t>(num_blocks - 1 - b));
      // Dimensions past head_dim: zero in K, finite in V.
      T* k_end = elements + b * block_bytes() / kElement;
      std::fill(k_end + head_dim * tokens_per_block, k_end + v_offset() / kElement, T{});
      for (int64_t t = 0; t < tokens_per_block; ++t) {
        for (int64_t d = head_dim; d < PaddedHeadDim(head_dim); ++d) k_end[v_at(t, d)] = T{};
      }
    }
    k = RandomFloats(length * head_dim, 1, 2.0f);
    v = RandomFloats(length * head_dim, 2);
    for (int64_t t = 0; t < length; ++t) {
      T* block = elements + block_table[static_cast<size_t>(t / tokens_per_block)] *
                                (block_bytes() / kElement);
      const int64_t offset = t % tokens_per_block;
      for (int64_t d = 0; d < head_dim; ++d) {
        const auto i = static_cast<size_t>(t * head_dim + d);
        block[(d / kGroup * tokens_per_block + offset) * kGroup + d % kGroup] =
            Format::Encode(k[i]);
        block[v_at(offset, d)] = Format::Encode(v[i]);
        k[i] = Format::Decode(Format::Encode(k[i]));
        v[i] = Format::Decode(Format::Encode(v[i]));
      }
    }
  }
  int64_t v_offset() const {
    return (kGroup == 1 ? head_dim : PaddedKeyDim(head_dim)) * tokens_per_block * kElement;
  }
  int64_t block_bytes() const {
    return v_offset() + tokens_per_block * PaddedHeadDim(head_dim) * kElement;
  }
  // Element of a block.
  int64_t v_at(int64_t token, int64_t d) const {
    return v_offset() / kElement + (token / kGroup * PaddedHeadDim(head_dim) + d) * kGroup +
           token % kGroup;
  }
};

struct Shape {
  int64_t group_size, window;
};

// Angles of whole quarters, by which rotation is exact; their cosines, then their sines.
std::vector<float> QuarterTurns(int64_t length, int64_t half) {
  std::vector<float> turns;
  for (int64_t t = 0; t < length; ++t) {
    for (const int64_t shift : {1, 0}) {
      for (int64_t i = 0; i < half; ++i) {
        constexpr float kSines[] = {0, 1, 0, -1};
        turns.push_back(kSines[(t + 3 * i + shift) % 4]);
      }
    }
  }
  return turns;
}

// Heads `q` [length][group_size][dim] after their turns.
std::vector<float> Turned(const std::vector<float>& q, const std::vector<float>& turns,
                          int64_t group_size, int64_t dim) {
  std::vector<float> turned(q.size());
  for (int64_t row = 0; row < static_cast<int64_t>(q.size()) / dim; ++row) {
    const int64_t token = row / group_size;
    for (int64_t i = 0; i < dim / 2; ++i) {
      const float cos = turns[static_cast<size_t>(token * dim + i)];
      const float sin = turns[static_cast<size_t>(token * dim + dim / 2 + i)];
      const auto low = static_cast<size_t>(row * dim + i);
      const size_t high = low + static_cast<size_t>(dim / 2);
      turned[low] = q[low] * cos - q[high] * sin;
      turned[high] = q[high] * cos + q[low] * sin;
    }
  }
  return turned;
}

template <class Format>
std::vector<float> Run(const Kernels& kernels, const Cache<Format>& cache, const Shape& shape,
                       const std::vector<float>& q, const std::vector<float>& turns, int64_t first,
                       int64_t count) {
  const int64_t width = shape.group_size * cache.head_dim;
  std::vector<float> y(static_cast<size_t>(count * width));
  AlignedBytes scratch(4 * static_cast<size_t>(AttentionScratchFloats(
                               count * shape.group_size, cache.tokens_per_block, cache.head_dim)));
  AttentionArgs args = {.q = q.data() + first * width,
                        .q_pitch = width,
                        .q_norm = nullptr,
                        .epsilon = 0,
                        .rope = turns.data() + first * cache.head_dim,
                        .rope_pitch = cache.head_dim,
                        .num_queries = count,
                        .group_size = shape.group_size,
                        .head_dim = cache.head_dim,
                        .first_position = first,
                        .sliding_window = shape.window,
                        .scale = 0.25f * Format::kScale,
                        .value_scale = Format::kScale,
                        .kv = cache.memory.data(),
                        .block_bytes = cache.block_bytes(),
                        .v_offset = cache.v_offset(),
                        .block_table = cache.block_table.data(),
                        .tokens_per_block = cache.tokens_per_block,
                        .y = y.data(),
                        .y_pitch = width,
                        .scratch = reinterpret_cast<float*>(scratch.data()),
                        .next = nullptr};
  const AttentionArgs again = args;
  args.next = &again;
  (kernels.*Format::kKernel)(args);
  return y;
}

template <class Format>
void CheckAgainstDouble(const Cache<Format>& cache, const Shape& shape, const std::vector<float>& q,
                        const std::vector<float>& y) {
  const int64_t dim = cache.head_dim;
  for (int64_t row = 0; row < cache.length * shape.group_size; ++row) {
    const int64_t position = row / shape.group_size;
    const int64_t begin = shape.window > 0 ? std::max<int64_t>(0, position - shape.window + 1) : 0;
    std::vector<double> sums(static_cast<size_t>(dim), 0.0);
    double denominator = 0;
    for (int64_t t = begin; t <= position; ++t) {
      double score = 0;
      for (int64_t d = 0; d < dim; ++d) {
        score += static_cast<double>(q[static_cast<size_t>(row * dim + d)]) *
                 static_cast<double>(cache.k[static_cast<size_t>(t * dim + d)]);
      }
      const double p = std::exp(0.25 * score);
      denominator += p;
      for (int64_t d = 0; d < dim; ++d) {
        sums[static_cast<size_t>(d)] +=
            p * static_cast<double>(cache.v[static_cast<size_t>(t * dim + d)]);
      }
    }
    for (int64_t d = 0; d < dim; ++d) {
      const double expected = sums[static_cast<size_t>(d)] / denominator;
      // Scores reach about 40; their rounding, a few ulps, is the relative error of a probability.
      // As an operand of a bf16 product a probability has 8 bits besides; values are below 1.
      const double tolerance = std::is_same_v<Format, AsF32> ? 2e-5 : 0x1p-9 + 2e-5;
      CHECK_NEAR(y[static_cast<size_t>(row * dim + d)], expected, tolerance);
    }
  }
}

template <class Format>
void Check(int64_t head_dim, int64_t tokens_per_block, const Shape& shape, int64_t length) {
  const Cache<Format> cache(tokens_per_block, head_dim, length);
  auto q = RandomFloats(length * shape.group_size * head_dim, 3, 2.0f);
  if constexpr (!std::is_same_v<Format, AsF32>) {
    for (float& value : q) value = FromBf16(ToBf16(value));  // so that rounding it is exact
  }
  const int64_t width = shape.group_size * head_dim;
  const auto turns = QuarterTurns(length, head_dim / 2);
  for (const Kernels* kernels : AvailableKernels()) {
    const std::vector<float> whole = Run(*kernels, cache, shape, q, turns, 0, length);
    CheckAgainstDouble(cache, shape, Turned(q, turns, shape.group_size, head_dim), whole);
    for (const int64_t chunk : {1, 2, 13, 32}) {
      std::vector<float> chunked;
      for (int64_t first = 0; first < length; first += chunk) {
        const int64_t count = std::min(chunk, length - first);
        const auto part = Run(*kernels, cache, shape, q, turns, first, count);
        chunked.insert(chunked.end(), part.begin(), part.end());
      }
      REQUIRE_EQ(chunked.size(), static_cast<size_t>(length * width));
      CHECK(SameBits(chunked, whole));
    }
  }
}

template <class Format>
void CheckAll(int64_t length) {
  for (const int64_t head_dim : {2, 18, 64, 128}) {
    for (const int64_t tokens_per_block : {16, 32, 48}) {
      for (const int64_t group_size : {1, 3, 7}) {
        for (const int64_t window : {0, 1, 5, 32, 50}) {
          Check<Format>(head_dim, tokens_per_block, Shape{group_size, window}, length);
        }
      }
    }
  }
  // More than one tile of tokens.
  for (const int64_t tokens_per_block : {16, 48, 144}) {
    for (const int64_t window : {0, 50, 140}) {
      Check<Format>(18, tokens_per_block, Shape{3, window}, 2 * kAttentionTileTokens + 9);
    }
  }
}

TEST(attention_over_f32_agrees_with_double_however_it_is_chunked) { CheckAll<AsF32>(79); }

TEST(attention_over_bf16_agrees_with_double_however_it_is_chunked) { CheckAll<AsBf16>(79); }

TEST(attention_over_i8_agrees_with_double_however_it_is_chunked) { CheckAll<AsI8>(79); }

TEST(attention_over_e4m3_agrees_with_double_however_it_is_chunked) { CheckAll<AsE4M3>(79); }

}  // namespace
}  // namespace enginery::test
