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

// What the schemes that accumulate in f32 share.
struct FloatDot {
  static constexpr int kMaxRows = 2;
  static constexpr int kPanels = 1;
  using Accumulator = F32;
  static ENGINERY_INLINE F32 Zero() { return Set1(0.0f); }
  static ENGINERY_INLINE F32 Result(const F32& sum, const LinearArgs&, int64_t, int64_t) {
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
  struct Pair {
    F32 even, odd;
  };
  using Weight = Pair;
  using Input = Pair;
  static ENGINERY_INLINE Pair Load(const std::byte* p) {
    Pair pair;
    ENGINERY_EACH_LANE {
      const uint32_t bits = ReadAs<uint32_t>(p + 4 * i);
      pair.even.lane[i] = BitsToFloat(bits << 16);
      pair.odd.lane[i] = BitsToFloat(bits & 0xFFFF0000u);
    }
    return pair;
  }
  static ENGINERY_INLINE Pair Broadcast(const std::byte* p) {
    const uint32_t bits = ReadAs<uint32_t>(p);
    return {Set1(BitsToFloat(bits << 16)), Set1(BitsToFloat(bits & 0xFFFF0000u))};
  }
  static ENGINERY_INLINE void Accumulate(F32& sum, const Pair& w, const Pair& x) {
    sum = MulAdd(x.even, w.even, sum);
    sum = MulAdd(x.odd, w.odd, sum);
  }
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
      ENGINERY_EACH_LANE quad.k[j].lane[i] = static_cast<float>(static_cast<int8_t>(p[4 * i + j]));
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
  // Unsigned, for sums wrap where the compiler must not care; the corrected result fits i32.
  struct Sums {
    uint32_t lane[kLanes];
  };
  struct Bytes {
    uint8_t k[4];
  };
  using Accumulator = Sums;
  using Weight = const std::byte*;
  using Input = Bytes;
  static ENGINERY_INLINE Sums Zero() { return {}; }
  static ENGINERY_INLINE const std::byte* Load(const std::byte* p) { return p; }
  static ENGINERY_INLINE Bytes Broadcast(const std::byte* p) { return ReadAs<Bytes>(p); }
  static ENGINERY_INLINE void Accumulate(Sums& sums, const std::byte* w, const Bytes& x) {
    ENGINERY_EACH_LANE {
      int32_t sum = 0;
      for (int j = 0; j < 4; ++j) sum += int32_t{static_cast<int8_t>(w[4 * i + j])} * x.k[j];
      sums.lane[i] += static_cast<uint32_t>(sum);
    }
  }
  static ENGINERY_INLINE F32 Result(const Sums& sums, const LinearArgs& args, int64_t row,
                                    int64_t channel) {
    F32 result = Set1(0.0f);
    for (int64_t i = 0; i < kLanes && channel + i < args.n; ++i) {
      const uint32_t shift = static_cast<uint32_t>(args.column_sums[channel + i]) *
                             static_cast<uint32_t>(kActivationZeroPoint);
      result.lane[i] = static_cast<float>(static_cast<int32_t>(sums.lane[i] - shift));
    }
    return Mul(result, Set1(args.x_scale[row]));
  }
};

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_DOTS_PORTABLE_H_
