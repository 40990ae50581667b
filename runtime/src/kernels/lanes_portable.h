// SPDX-License-Identifier: Apache-2.0
//
// Sixteen lanes in plain C++, for the compiler to vectorise with what the baseline has. Also the
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

struct F32 {
  float lane[kLanes];
};

#define ENGINERY_EACH_LANE for (int i = 0; i < kLanes; ++i)

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
  F32 r;
  ENGINERY_EACH_LANE r.lane[i] = value;
  return r;
}
ENGINERY_INLINE F32 Load(const float* p) {
  F32 r;
  __builtin_memcpy(r.lane, p, sizeof r.lane);
  return r;
}
// The first n lanes from memory, the others zero.
ENGINERY_INLINE F32 LoadFirst(const float* p, int64_t n) {
  F32 r = Set1(0.0f);
  for (int64_t i = 0; i < n; ++i) r.lane[i] = p[i];
  return r;
}
ENGINERY_INLINE F32 LoadBf16(const uint16_t* p) {
  F32 r;
  ENGINERY_EACH_LANE r.lane[i] = BitsToFloat(uint32_t{p[i]} << 16);
  return r;
}
ENGINERY_INLINE void Store(float* p, F32 a) { __builtin_memcpy(p, a.lane, sizeof a.lane); }
ENGINERY_INLINE void StoreFirst(float* p, int64_t n, F32 a) {
  for (int64_t i = 0; i < n; ++i) p[i] = a.lane[i];
}

ENGINERY_INLINE F32 Add(F32 a, F32 b) {
  ENGINERY_EACH_LANE a.lane[i] += b.lane[i];
  return a;
}
ENGINERY_INLINE F32 Sub(F32 a, F32 b) {
  ENGINERY_EACH_LANE a.lane[i] -= b.lane[i];
  return a;
}
ENGINERY_INLINE F32 Mul(F32 a, F32 b) {
  ENGINERY_EACH_LANE a.lane[i] *= b.lane[i];
  return a;
}
ENGINERY_INLINE F32 Div(F32 a, F32 b) {
  ENGINERY_EACH_LANE a.lane[i] /= b.lane[i];
  return a;
}
// a * b + c, fused where the instruction set can.
ENGINERY_INLINE F32 MulAdd(F32 a, F32 b, F32 c) { return Add(Mul(a, b), c); }
ENGINERY_INLINE F32 Max(F32 a, F32 b) {
  ENGINERY_EACH_LANE a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
  return a;
}
ENGINERY_INLINE F32 Min(F32 a, F32 b) {
  ENGINERY_EACH_LANE a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
  return a;
}
ENGINERY_INLINE F32 Abs(F32 a) {
  ENGINERY_EACH_LANE a.lane[i] = BitsToFloat(FloatToBits(a.lane[i]) & 0x7FFFFFFFu);
  return a;
}
// value where x >= bound, else zero.
ENGINERY_INLINE F32 ZeroBelow(F32 x, float bound, F32 value) {
  ENGINERY_EACH_LANE value.lane[i] = x.lane[i] >= bound ? value.lane[i] : 0.0f;
  return value;
}
// a * 2^n, where the low bits of `biased` hold n: the caller added 1.5 * 2^23 to round to it.
ENGINERY_INLINE F32 ScaleByPowerOf2(F32 a, F32 biased) {
  ENGINERY_EACH_LANE a.lane[i] =
      BitsToFloat(FloatToBits(a.lane[i]) + (FloatToBits(biased.lane[i]) << 23));
  return a;
}

// Halves are added until one lane is left: the same tree in every instruction set.
ENGINERY_INLINE float ReduceAdd(F32 a) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) a.lane[i] += a.lane[i + width];
  }
  return a.lane[0];
}
ENGINERY_INLINE float ReduceMax(F32 a) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      a.lane[i] = a.lane[i] > a.lane[i + width] ? a.lane[i] : a.lane[i + width];
    }
  }
  return a.lane[0];
}

// Rounds the first n lanes to bf16, nearest even; NaN stays NaN.
ENGINERY_INLINE void StoreBf16First(uint16_t* p, int64_t n, F32 a) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = FloatToBits(a.lane[i]);
    const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    p[i] = static_cast<uint16_t>(
        (is_nan ? bits | 0x400000u : bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
  }
}
// clamp(rint(a), -127, 127) + 128 of the first n lanes. |a| must be below 2^22 (NaN gives some
// byte).
ENGINERY_INLINE void StoreQuantizedFirst(uint8_t* p, int64_t n, F32 a) {
  constexpr float kRound =
      12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  for (int64_t i = 0; i < n; ++i) {
    int32_t q = static_cast<int32_t>(FloatToBits(a.lane[i] + kRound) - FloatToBits(kRound));
    q = q < -127 ? -127 : q > 127 ? 127 : q;
    p[i] = static_cast<uint8_t>(q + 128);
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LANES_PORTABLE_H_
