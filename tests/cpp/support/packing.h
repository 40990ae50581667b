// SPDX-License-Identifier: Apache-2.0
//
// Packed weights and other numbers for tests of the kernels and the executor.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "support/aligned_bytes.h"

namespace enginery::test {

// Layout n16k{group} of a row-major [n, k] matrix, as docs/engine-format.md defines it.
template <class T>
AlignedBytes Pack(const std::vector<T>& rows, int64_t n, int64_t k, int64_t group) {
  const int64_t panels = (n + 15) / 16;
  const int64_t groups = (k + group - 1) / group;
  AlignedBytes bytes(static_cast<size_t>(panels * groups * 16 * group) * sizeof(T));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const int64_t element = ((i / 16 * groups + j / group) * 16 + i % 16) * group + j % group;
      std::memcpy(bytes.data() + element * static_cast<int64_t>(sizeof(T)),
                  &rows[static_cast<size_t>(i * k + j)], sizeof(T));
    }
  }
  return bytes;
}

inline uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}
inline float FromBf16(uint16_t value) { return std::bit_cast<float>(uint32_t{value} << 16); }

// FP8 E4M3 by its definition: four bits of exponent with bias 7, three of mantissa, no infinity.
inline float FromE4M3(uint8_t code) {
  const int exponent = code >> 3 & 15;
  const int mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::nanf("");
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return code >= 128 ? -magnitude : magnitude;
}
// The nearest of all codes, of two the even one; beyond the largest, the largest.
inline uint8_t ToE4M3(float value) {
  const auto sign = static_cast<uint8_t>(std::signbit(value) ? 128 : 0);
  uint8_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (uint8_t code = 0; code < 127; ++code) {
    const double distance =
        std::fabs(std::fabs(static_cast<double>(value)) - static_cast<double>(FromE4M3(code)));
    if (distance < least || (distance == least && code % 2 == 0)) {
      least = distance;
      best = code;
    }
  }
  return static_cast<uint8_t>(best | sign);
}

inline std::vector<float> RandomFloats(int64_t count, uint32_t seed, float spread = 1.0f) {
  std::mt19937 random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    value = spread * (static_cast<float>(random()) / 2147483648.0f - 1.0f);
  }
  return values;
}

inline std::vector<uint16_t> RandomBf16(int64_t count, uint32_t seed, float spread = 1.0f) {
  std::vector<uint16_t> values;
  for (const float value : RandomFloats(count, seed, spread)) values.push_back(ToBf16(value));
  return values;
}

// All of -127 .. 127, the ends often: where saturation would show.
inline std::vector<int8_t> RandomInt8(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int8_t> values(static_cast<size_t>(count));
  for (int8_t& value : values) {
    const uint32_t draw = random() % 340;
    value = static_cast<int8_t>(draw < 255 ? static_cast<int>(draw) - 127 : draw % 2 ? 127 : -127);
  }
  return values;
}

// An i4 weight in groups along k: codes -8..7 and multipliers -15..15 without 0.
struct GroupedWeight {
  int64_t num_groups;
  std::vector<int8_t> codes;         // [n][k]
  std::vector<int8_t> group_scales;  // [n][num_groups]
  std::vector<int8_t> products;      // [n][k]
};
inline GroupedWeight RandomGroupedWeight(int64_t n, int64_t k, int64_t group, uint32_t seed) {
  std::mt19937 random(seed);
  GroupedWeight weight{(k + group - 1) / group, {}, {}, {}};
  for (int64_t i = 0; i < n * weight.num_groups; ++i) {
    const int draw = static_cast<int>(random() % 30) - 15;
    weight.group_scales.push_back(static_cast<int8_t>(draw >= 0 ? draw + 1 : draw));
  }
  for (int64_t i = 0; i < n * k; ++i) {
    const int8_t scale =
        weight.group_scales[static_cast<size_t>(i / k * weight.num_groups + i % k / group)];
    weight.codes.push_back(static_cast<int8_t>(static_cast<int>(random() % 16) - 8));
    weight.products.push_back(static_cast<int8_t>(weight.codes.back() * scale));
  }
  return weight;
}

// Layout n16k8; see docs/engine-format.md.
inline AlignedBytes PackI4(const std::vector<int8_t>& codes, int64_t n, int64_t k) {
  const int64_t groups = (k + 7) / 8;
  AlignedBytes packed(static_cast<size_t>((n + 15) / 16 * groups * 64));
  std::fill(packed.begin(), packed.end(), std::byte{0x88});
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const int code = codes[static_cast<size_t>(i * k + j)] + 8;
      std::byte& at =
          packed[static_cast<size_t>(((i / 16 * groups + j / 8) * 16 + i % 16) * 4 + j % 4)];
      at = j % 8 < 4 ? (at & std::byte{0xF0}) | static_cast<std::byte>(code)
                     : (at & std::byte{0x0F}) | static_cast<std::byte>(code << 4);
    }
  }
  return packed;
}

// Bitwise: tells -0 from 0 and one NaN from another.
inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// The kernels that this machine can run: portable always.
inline std::vector<const Kernels*> AvailableKernels() {
  std::vector<const Kernels*> available;
  for (const char* isa : {"portable", "avx2", "avx512", "amx"}) {
    if (const Kernels* kernels = FindKernels(isa)) available.push_back(kernels);
  }
  return available;
}

}  // namespace enginery::test
