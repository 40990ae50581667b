// SPDX-License-Identifier: Apache-2.0
//
// Sixteen lanes in vectors of four that the compiler maps to whatever the baseline has. Also the
// reference for what lanes_avx2.h and lanes_avx512.h must offer: the same names, each in an
// anonymous namespace, so that no code compiled for one instruction set can be linked into another
// file (that is also why these files use no templates of std). Multiply and add stay apart here: a
// baseline x86 has no FMA, and a call per element would cost more than it gains.
#ifndef ENGINERY_SRC_KERNELS_LANES_PORTABLE_H_
#define ENGINERY_SRC_KERNELS_LANES_PORTABLE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/inline.h"

namespace enginery {
namespace {

constexpr int kLanes = 16;
constexpr int kReducedRows = 8;
constexpr int kParts = 4;

// Vectors of GCC and Clang; they exist on every architecture.
typedef float Float4 __attribute__((vector_size(16)));
typedef uint32_t Uint4 __attribute__((vector_size(16)));

struct F32 {
  Float4 part[kParts];
};

#define ENGINERY_EACH_PART for (int i = 0; i < kParts; ++i)

ENGINERY_INLINE float BitsToFloat(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
ENGINERY_INLINE uint32_t FloatToBits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

ENGINERY_INLINE F32 Set1(float value) {
  const Float4 v = {value, value, value, value};
  return {{v, v, v, v}};
}
ENGINERY_INLINE F32 Load(const float* p) {
  F32 r;
  __builtin_memcpy(&r, p, sizeof r);
  return r;
}
// The first n lanes from memory, the others zero.
ENGINERY_INLINE F32 LoadFirst(const float* p, int64_t n) {
  if (n == kLanes) return Load(p);
  F32 r = Set1(0.0f);
  __builtin_memcpy(&r, p, static_cast<size_t>(n) * sizeof(float));
  return r;
}
// The first n lanes from memory, the others those of `rest`.
ENGINERY_INLINE F32 LoadFirstOr(const float* p, int64_t n, F32 rest) {
  __builtin_memcpy(&rest, p, static_cast<size_t>(n) * sizeof(float));
  return rest;
}
ENGINERY_INLINE F32 LoadBf16(const uint16_t* p) {
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = BitsToFloat(uint32_t{p[i]} << 16);
  return Load(lanes);
}
ENGINERY_INLINE void Store(float* p, const F32& a) { __builtin_memcpy(p, &a, sizeof a); }
ENGINERY_INLINE void StoreFirst(float* p, int64_t n, const F32& a) {
  if (n == kLanes) return Store(p, a);
  __builtin_memcpy(p, &a, static_cast<size_t>(n) * sizeof(float));
}

ENGINERY_INLINE F32 Add(F32 a, const F32& b) {
  ENGINERY_EACH_PART a.part[i] += b.part[i];
  return a;
}
ENGINERY_INLINE F32 Sub(F32 a, const F32& b) {
  ENGINERY_EACH_PART a.part[i] -= b.part[i];
  return a;
}
ENGINERY_INLINE F32 Mul(F32 a, const F32& b) {
  ENGINERY_EACH_PART a.part[i] *= b.part[i];
  return a;
}
ENGINERY_INLINE F32 Div(F32 a, const F32& b) {
  ENGINERY_EACH_PART a.part[i] /= b.part[i];
  return a;
}
// a * b + c, fused where the instruction set can.
ENGINERY_INLINE F32 MulAdd(const F32& a, const F32& b, const F32& c) { return Add(Mul(a, b), c); }
ENGINERY_INLINE F32 Max(F32 a, const F32& b) {
  ENGINERY_EACH_PART a.part[i] = a.part[i] > b.part[i] ? a.part[i] : b.part[i];
  return a;
}
ENGINERY_INLINE F32 Min(F32 a, const F32& b) {
  ENGINERY_EACH_PART a.part[i] = a.part[i] < b.part[i] ? a.part[i] : b.part[i];
  return a;
}
ENGINERY_INLINE F32 Abs(F32 a) {
  ENGINERY_EACH_PART a.part[i] = (Float4)((Uint4)a.part[i] & 0x7FFFFFFFu);
  return a;
}
// value where x >= bound, else zero.
ENGINERY_INLINE F32 ZeroBelow(const F32& x, float bound, F32 value) {
  ENGINERY_EACH_PART value.part[i] = (Float4)((Uint4)value.part[i] & (Uint4)(x.part[i] >= bound));
  return value;
}
constexpr float kRoundingBias = 12582912.0f;  // 1.5 * 2^23: its sum with a has no fraction
// The nearest integer, for |a| < 2^22.
ENGINERY_INLINE F32 RoundToInteger(const F32& a) {
  return Sub(Add(a, Set1(kRoundingBias)), Set1(kRoundingBias));
}
// a * 2^n for an integer n, zero where x is below `bound`. a is in [1/2, 2].
ENGINERY_INLINE F32 ScaleByInteger(F32 a, const F32& n, const F32& x, float bound) {
  const F32 biased = Add(n, Set1(kRoundingBias));  // n is in its low bits
  ENGINERY_EACH_PART a.part[i] = (Float4)((Uint4)a.part[i] + ((Uint4)biased.part[i] << 23));
  return ZeroBelow(x, bound, a);
}
ENGINERY_INLINE F32 Reciprocal(const F32& a) { return Div(Set1(1.0f), a); }

// Halves are added until one lane is left: the same tree in every instruction set.
ENGINERY_INLINE float ReduceAdd(const F32& a) {
  const Float4 four = (a.part[0] + a.part[2]) + (a.part[1] + a.part[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}
ENGINERY_INLINE float ReduceMax(const F32& a) {
  float lanes[kLanes];
  Store(lanes, a);
  float largest = lanes[0];
  for (int i = 1; i < kLanes; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  return largest;
}

// As ReduceAdd and ReduceMax of each row, in the same order.
ENGINERY_INLINE void ReduceAddEach(const F32 (&rows)[kReducedRows], float* to) {
  for (int r = 0; r < kReducedRows; ++r) to[r] = ReduceAdd(rows[r]);
}
ENGINERY_INLINE void ReduceMaxEach(const F32 (&rows)[kReducedRows], float* to) {
  for (int r = 0; r < kReducedRows; ++r) to[r] = ReduceMax(rows[r]);
}

// Rounds the first n lanes to bf16, nearest even; NaN stays NaN.
ENGINERY_INLINE void StoreBf16First(uint16_t* p, int64_t n, const F32& a) {
  float lanes[kLanes];
  Store(lanes, a);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = FloatToBits(lanes[i]);
    const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    p[i] = static_cast<uint16_t>(
        (is_nan ? bits | 0x400000u : bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
  }
}
// Rounded to bf16, and that value as f32.
ENGINERY_INLINE F32 RoundToBf16(const F32& a) {
  uint16_t rounded[kLanes];
  StoreBf16First(rounded, kLanes, a);
  return LoadBf16(rounded);
}
// clamp(rint(a), -127, 127) + 128 of the first n lanes. |a| must be below 2^22 (NaN gives some
// byte).
ENGINERY_INLINE void StoreQuantizedFirst(uint8_t* p, int64_t n, const F32& a) {
  float lanes[kLanes];
  Store(lanes, a);
  constexpr float kRound =
      12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  for (int64_t i = 0; i < n; ++i) {
    int32_t q = static_cast<int32_t>(FloatToBits(lanes[i] + kRound) - FloatToBits(kRound));
    q = q < -127 ? -127 : q > 127 ? 127 : q;
    p[i] = static_cast<uint8_t>(q + 128);
  }
}

// rint(a) of the first n lanes, which are within -128..127.
ENGINERY_INLINE void StoreI8First(uint8_t* p, int64_t n, const F32& a) {
  float lanes[kLanes];
  Store(lanes, a);
  for (int64_t i = 0; i < n; ++i) {
    p[i] = static_cast<uint8_t>(FloatToBits(lanes[i] + kRoundingBias) - FloatToBits(kRoundingBias));
  }
}
// Rounds the first n lanes to E4M3, nearest even, those beyond 448 to 448; NaN gives some code.
// Numbers below 2^-6 are multiples of 2^-9: adding 2^14 rounds to these.
constexpr float kE4M3Max = 448.0f, kE4M3MinNormal = 0x1p-6f, kE4M3Round = 0x1p14f;
constexpr uint32_t kE4M3Bias = 120u << 23;  // of f32's exponent over its
ENGINERY_INLINE void StoreE4M3First(uint8_t* p, int64_t n, const F32& a) {
  float lanes[kLanes], magnitudes[kLanes];
  Store(lanes, a);
  Store(magnitudes, Min(Abs(a), Set1(kE4M3Max)));
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = FloatToBits(magnitudes[i]);
    const uint32_t normal = (bits - kE4M3Bias + 0x7FFFFu + ((bits >> 20) & 1u)) >> 20;
    const uint32_t subnormal = FloatToBits(magnitudes[i] + kE4M3Round) - FloatToBits(kE4M3Round);
    const uint32_t code = magnitudes[i] < kE4M3MinNormal ? subnormal : normal;
    p[i] = static_cast<uint8_t>(code | (FloatToBits(lanes[i]) >> 24 & 0x80u));
  }
}

// Rounded to E4M3 likewise, and that value as f32; NaN stays NaN.
ENGINERY_INLINE F32 RoundToE4M3(const F32& a) {
  float lanes[kLanes];
  Store(lanes, a);
  for (float& lane : lanes) {
    float magnitude = BitsToFloat(FloatToBits(lane) & 0x7FFFFFFFu);
    if (magnitude > kE4M3Max) magnitude = kE4M3Max;
    const uint32_t bits = FloatToBits(magnitude);
    const float normal = BitsToFloat((bits + 0x7FFFFu + ((bits >> 20) & 1u)) & 0xFFF00000u);
    const float rounded = magnitude < kE4M3MinNormal ? magnitude + kE4M3Round - kE4M3Round : normal;
    lane = BitsToFloat(FloatToBits(rounded) | (FloatToBits(lane) & 0x80000000u));
  }
  return Load(lanes);
}

// The even and the odd elements of sixteen pairs, exactly: of bf16, of i8 and of E4M3, whose code
// of NaN reads as 480.
struct Pairs {
  F32 even, odd;
};
ENGINERY_INLINE Pairs LoadBf16Pairs(const std::byte* p) {
  float even[kLanes], odd[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    uint32_t pair;
    __builtin_memcpy(&pair, p + 4 * i, sizeof pair);
    even[i] = BitsToFloat(pair << 16);
    odd[i] = BitsToFloat(pair & 0xFFFF0000u);
  }
  return {Load(even), Load(odd)};
}
ENGINERY_INLINE Pairs LoadI8Pairs(const std::byte* p) {
  float even[kLanes], odd[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    even[i] = static_cast<float>(static_cast<int8_t>(p[2 * i]));
    odd[i] = static_cast<float>(static_cast<int8_t>(p[2 * i + 1]));
  }
  return {Load(even), Load(odd)};
}
ENGINERY_INLINE float E4M3ToFloat(std::byte code) {
  const auto bits = static_cast<uint32_t>(code);
  const uint32_t magnitude = (bits & 0x7Fu) << 20;
  const bool is_subnormal = magnitude < 1u << 23;
  const float value = is_subnormal
                          ? BitsToFloat(magnitude + kE4M3Bias + (1u << 23)) - kE4M3MinNormal
                          : BitsToFloat(magnitude + kE4M3Bias);
  return bits >= 0x80u ? -value : value;
}
ENGINERY_INLINE Pairs LoadE4M3Pairs(const std::byte* p) {
  float even[kLanes], odd[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    even[i] = E4M3ToFloat(p[2 * i]);
    odd[i] = E4M3ToFloat(p[2 * i + 1]);
  }
  return {Load(even), Load(odd)};
}

// Both must be exact in bf16.
ENGINERY_INLINE void StoreBf16Pairs(std::byte* p, const Pairs& pairs) {
  float even[kLanes], odd[kLanes];
  Store(even, pairs.even);
  Store(odd, pairs.odd);
  for (int i = 0; i < kLanes; ++i) {
    const uint32_t pair = FloatToBits(even[i]) >> 16 | FloatToBits(odd[i]);
    __builtin_memcpy(p + 4 * i, &pair, sizeof pair);
  }
}
ENGINERY_INLINE void StoreRoundedBf16Pairs(std::byte* p, const F32& even, const F32& odd) {
  StoreBf16Pairs(p, {RoundToBf16(even), RoundToBf16(odd)});
}
// The code of k = j, less its zero point, of 16 channels by 8 k of i4 (n16k8).
template <int j>
ENGINERY_INLINE F32 LoadI4(const std::byte* p) {
  float lanes[kLanes];
  for (int c = 0; c < kLanes; ++c) {
    const int32_t codes = static_cast<uint8_t>(p[4 * c + j % 4]);
    lanes[c] = static_cast<float>((j < 4 ? codes & 15 : codes >> 4) - 8);
  }
  return Load(lanes);
}

// Multipliers of a group of k, for 16 channels.
struct GroupScales {
  int32_t channel[16];
};
ENGINERY_INLINE GroupScales LoadGroupScales(const int8_t* p) {
  GroupScales scales;
  for (int c = 0; c < 16; ++c) scales.channel[c] = p[c];
  return scales;
}
// 16 channels by 8 k of i4 (n16k8) to two groups of i8 (n16k4), multiplied.
ENGINERY_INLINE void Unpack64(const std::byte* p, const GroupScales& scales, std::byte* to) {
  for (int c = 0; c < 16; ++c) {
    for (int b = 0; b < 4; ++b) {
      const int32_t codes = static_cast<uint8_t>(p[4 * c + b]);
      to[4 * c + b] = static_cast<std::byte>(((codes & 15) - 8) * scales.channel[c]);
      to[64 + 4 * c + b] = static_cast<std::byte>(((codes >> 4) - 8) * scales.channel[c]);
    }
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LANES_PORTABLE_H_
