// SPDX-License-Identifier: Apache-2.0
//
// Dot products of one group of k in plain C++. See linear.h for the shape of a Dot.
#ifndef ENGINERY_SRC_KERNELS_DOTS_PORTABLE_H_
#define ENGINERY_SRC_KERNELS_DOTS_PORTABLE_H_

#include "kernels/kernels.h"
#include "kernels/lanes_portable.h"

namespace enginery {
namespace {

template <class T>
ENGINERY_INLINE T ReadAs(const std::byte* p) {
  T value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}

typedef int32_t Int4 __attribute__((vector_size(16)));

// What the schemes that accumulate in f32 share.
struct FloatDot {
  static constexpr int kMaxRows = 2;
  static constexpr int kPanels = 1;
  using Accumulator = F32;
  static ENGINERY_INLINE F32 Zero() { return Set1(0.0f); }
  struct Columns {
    Columns(const LinearArgs&, int64_t, int64_t) {}
  };
  static ENGINERY_INLINE F32 Result(const F32& sum, const Columns&, const LinearArgs&, int64_t) {
    return sum;
  }
};

struct DotF32F32 : FloatDot {
  static constexpr int kGroup = 1, kWeightBytes = 64, kInputBytes = 4;
  using Weight = F32;
  using Input = F32;
  static ENGINERY_INLINE F32 Load(const std::byte* p) {
    return enginery::Load(reinterpret_cast<const float*>(p));
  }
  static ENGINERY_INLINE F32 Broadcast(const std::byte* p) { return Set1(ReadAs<float>(p)); }
  static ENGINERY_INLINE void Accumulate(F32& sum, const F32& w, const F32& x) {
    sum = MulAdd(x, w, sum);
  }
};

struct DotBf16Bf16 : FloatDot {
  static constexpr int kGroup = 2, kWeightBytes = 64, kInputBytes = 4;
  using Weight = Pairs;
  using Input = Pairs;
  static ENGINERY_INLINE Pairs Load(const std::byte* p) {
    Pairs pair;
    ENGINERY_EACH_PART {
      const Uint4 bits = ReadAs<Uint4>(p + 16 * i);
      pair.even.part[i] = (Float4)(bits << 16);
      pair.odd.part[i] = (Float4)(bits & 0xFFFF0000u);
    }
    return pair;
  }
  static ENGINERY_INLINE Pairs Broadcast(const std::byte* p) {
    const uint32_t bits = ReadAs<uint32_t>(p);
    return {Set1(BitsToFloat(bits << 16)), Set1(BitsToFloat(bits & 0xFFFF0000u))};
  }
  static ENGINERY_INLINE void Accumulate(F32& sum, const Pairs& w, const Pairs& x) {
    sum = MulAdd(x.even, w.even, sum);
    sum = MulAdd(x.odd, w.odd, sum);
  }
};

// FP8 E4M3 in pairs of k: 16 channels in 32 bytes. Its values are exact in bf16, and so is x.
struct DotBf16E4M3 : DotBf16Bf16 {
  static constexpr int kWeightBytes = 32;
  static ENGINERY_INLINE Pairs Load(const std::byte* p) { return LoadE4M3Pairs(p); }
};

// Weight-only i8: weights become f32, exactly.
struct DotXI8 : FloatDot {
  static constexpr int kGroup = 4, kWeightBytes = 64;
  struct Quad {
    F32 k[4];
  };
  using Weight = Quad;
  using Input = Quad;
  static ENGINERY_INLINE Quad Load(const std::byte* p) {
    Quad quad;
    for (int j = 0; j < 4; ++j) {
      ENGINERY_EACH_PART {
        const Int4 bytes = ReadAs<Int4>(p + 16 * i);
        quad.k[j].part[i] = __builtin_convertvector((bytes << (24 - 8 * j)) >> 24, Float4);
      }
    }
    return quad;
  }
  static ENGINERY_INLINE void Accumulate(F32& sum, const Quad& w, const Quad& x) {
    for (int j = 0; j < 4; ++j) sum = MulAdd(x.k[j], w.k[j], sum);
  }
};
struct DotF32I8 : DotXI8 {
  static constexpr int kInputBytes = 16;
  static ENGINERY_INLINE Quad Broadcast(const std::byte* p) {
    Quad quad;
    for (int j = 0; j < 4; ++j) quad.k[j] = Set1(ReadAs<float>(p + 4 * j));
    return quad;
  }
};
struct DotBf16I8 : DotXI8 {
  static constexpr int kInputBytes = 8;
  static ENGINERY_INLINE Quad Broadcast(const std::byte* p) {
    Quad quad;
    for (int j = 0; j < 4; ++j) {
      quad.k[j] = Set1(BitsToFloat(uint32_t{ReadAs<uint16_t>(p + 2 * j)} << 16));
    }
    return quad;
  }
};

struct DotI8I8 {
  static constexpr int kMaxRows = 2, kPanels = 1;
  static constexpr int kGroup = 4, kWeightBytes = 64, kInputBytes = 4;
  // Unsigned, for the uncorrected sums may wrap; the corrected result fits i32.
  struct Sums {
    Uint4 part[kParts];
  };
  using Accumulator = Sums;
  using Weight = const std::byte*;
  using Input = const std::byte*;
  static ENGINERY_INLINE Sums Zero() { return {}; }
  static ENGINERY_INLINE const std::byte* Load(const std::byte* p) { return p; }
  static ENGINERY_INLINE const std::byte* Broadcast(const std::byte* p) { return p; }
  static ENGINERY_INLINE void Accumulate(Sums& sums, const std::byte* w, const std::byte* x) {
    for (int j = 0; j < 4; ++j) {
      const int32_t input = static_cast<uint8_t>(x[j]);
      ENGINERY_EACH_PART {
        const Int4 bytes = ReadAs<Int4>(w + 16 * i);
        sums.part[i] += (Uint4)(((bytes << (24 - 8 * j)) >> 24) * input);
      }
    }
  }
  struct Columns {
    Sums shift;  // what the activations' zero point adds to a sum
    ENGINERY_INLINE Columns(const LinearArgs& args, int64_t channel, int64_t count) {
      uint32_t shifts[kLanes] = {};
      for (int64_t i = 0; i < count; ++i) {
        shifts[i] = static_cast<uint32_t>(args.column_sums[channel + i]) *
                    static_cast<uint32_t>(kActivationZeroPoint);
      }
      ENGINERY_EACH_PART {
        shift.part[i] = ReadAs<Uint4>(reinterpret_cast<const std::byte*>(shifts + 4 * i));
      }
    }
  };
  static ENGINERY_INLINE F32 Result(const Sums& sums, const Columns& columns,
                                    const LinearArgs& args, int64_t row) {
    F32 exact;
    ENGINERY_EACH_PART {
      exact.part[i] = __builtin_convertvector((Int4)(sums.part[i] - columns.shift.part[i]), Float4);
    }
    return Mul(exact, Set1(args.x_scale[row]));
  }
};

// Register tiles of attention: rows by vectors of 16 tokens, rows by vectors of 16 dimensions.
constexpr int kScoreRows = 2, kScoreVectors = 1;
constexpr int kValueRows = 1, kValueVectors = 1;
constexpr int64_t kAttentionRows = 16;

constexpr int64_t FetchAheadAlone(int64_t) { return 4096; }  // bytes of one stream of weights

}  // namespace
}  // namespace enginery

#include "kernels/operand_bf16_as_f32.h"

#endif  // ENGINERY_SRC_KERNELS_DOTS_PORTABLE_H_
