// SPDX-License-Identifier: Apache-2.0
//
// Kernels over one row, on the lanes of the file that includes this (lanes_*.h must come first).
#ifndef ENGINERY_SRC_KERNELS_ROWS_H_
#define ENGINERY_SRC_KERNELS_ROWS_H_

#include <cstdint>

namespace enginery {
namespace {

// 2^x for x <= 127; zero below -126, where the result would be denormal. Relative error below 2e-7
// with FMA. x = n + r with |r| <= 1/2; 2^r by the polynomial of degree 5 with p(0) = 1 whose
// largest relative error on [-1/2, 1/2] is least (9.2e-8; found by reweighted least squares on
// Chebyshev nodes).
ENGINERY_INLINE F32 Exp2(F32 x) {
  const F32 n = RoundToInteger(x);
  const F32 r = Sub(x, n);
  F32 p = Set1(1.326472731e-3f);
  p = MulAdd(p, r, Set1(9.671512991e-3f));
  p = MulAdd(p, r, Set1(5.550733581e-2f));
  p = MulAdd(p, r, Set1(2.402224243e-1f));
  p = MulAdd(p, r, Set1(6.931470037e-1f));
  p = MulAdd(p, r, Set1(1.0f));
  return ScaleByInteger(p, n, x, -126.0f);
}

// Calls body(first, count) for the row's pieces of kLanes columns; the last may be shorter.
template <class Body>
ENGINERY_INLINE void ForEachPiece(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, int64_t{kLanes});
  if (i < n) body(i, n - i);
}

// What an RMS norm multiplies a row by.
ENGINERY_INLINE F32 RmsScale(const float* x, int64_t n, float epsilon) {
  // Four partial sums hide the latency of the additions; which column goes to which is fixed.
  F32 sums[4] = {Set1(0.0f), Set1(0.0f), Set1(0.0f), Set1(0.0f)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      const F32 v = Load(x + i + j * kLanes);
      sums[j] = Add(sums[j], Mul(v, v));
    }
  }
  for (int j = 0; i < n; i += kLanes, ++j) {
    const F32 v = LoadFirst(x + i, n - i < kLanes ? n - i : kLanes);
    sums[j] = Add(sums[j], Mul(v, v));
  }
  const float sum = ReduceAdd(Add(Add(sums[0], sums[1]), Add(sums[2], sums[3])));
  const float mean = sum / static_cast<float>(n);
  return Set1(1.0f / __builtin_sqrtf(mean + epsilon));
}

void RmsNormRow(const float* x, const float* weight, int64_t n, float epsilon, float* y) {
  const F32 scale = RmsScale(x, n, epsilon);
  ForEachPiece(n, [=](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    const F32 v = Mul(LoadFirst(x + first, count), scale);
    StoreFirst(y + first, count, Mul(v, LoadFirst(weight + first, count)));
  });
}

// gate / (1 + e^-gate) * up
ENGINERY_INLINE F32 SiluMul(F32 gate, F32 up) {
  constexpr float kLog2e = 1.44269504f;
  const F32 e = Exp2(Min(Mul(gate, Set1(-kLog2e)), Set1(116.0f)));  // more is zero for every gate
  return Mul(Mul(gate, Reciprocal(Add(Set1(1.0f), e))), up);
}

void SiluMulRow(const float* gate, const float* up, int64_t n, float* y) {
  ForEachPiece(n, [=](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    const F32 product = SiluMul(LoadFirst(gate + first, count), LoadFirst(up + first, count));
    StoreFirst(y + first, count, product);
  });
}

void AddRow(const float* x, int64_t n, float* y) {
  ForEachPiece(n, [=](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    StoreFirst(y + first, count, Add(LoadFirst(y + first, count), LoadFirst(x + first, count)));
  });
}

void MultiplyRow(const float* x, const float* factor, int64_t n, float* y) {
  ForEachPiece(n, [=](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    StoreFirst(y + first, count,
               Mul(LoadFirst(x + first, count), LoadFirst(factor + first, count)));
  });
}

// Pairs of one element each of a head's two halves, turned by an angle.
struct Rotated {
  F32 low, high;
};
ENGINERY_INLINE Rotated Rotate(F32 low, F32 high, F32 cos, F32 sin) {
  return {Sub(Mul(low, cos), Mul(high, sin)), Add(Mul(high, cos), Mul(low, sin))};
}

void RopeHeads(float* x, int64_t num_heads, int64_t head_dim, const float* cos, const float* sin) {
  const int64_t half = head_dim / 2;
  // The angles of a piece serve all heads.
  ForEachPiece(half, [=](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    const F32 c = LoadFirst(cos + first, count);
    const F32 s = LoadFirst(sin + first, count);
    for (int64_t h = 0; h < num_heads; ++h) {
      float* low = x + h * head_dim + first;
      const Rotated head = Rotate(LoadFirst(low, count), LoadFirst(low + half, count), c, s);
      StoreFirst(low, count, head.low);
      StoreFirst(low + half, count, head.high);
    }
  });
}

void Bf16Row(const float* x, int64_t n, uint16_t* y) {
  ForEachPiece(n, [=](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    StoreBf16First(y + first, count, LoadFirst(x + first, count));
  });
}

void Bf16RowPair(const float* a, const float* b, int64_t n, uint16_t* y) {
  uint16_t pairs[2][kLanes];
  ForEachPiece(n, [&](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    StoreBf16First(pairs[0], kLanes, LoadFirst(a + first, count));
    StoreBf16First(pairs[1], kLanes, LoadFirst(b + first, count));
    uint16_t* to = y + 2 * first;
    for (int64_t i = 0; i < count; ++i) {
      to[2 * i] = pairs[0][i];
      to[2 * i + 1] = pairs[1][i];
    }
  });
}

void I8Row(const float* x, int64_t n, float inverse_scale, uint8_t* y) {
  ForEachPiece(n, [=](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    const F32 scaled = Mul(LoadFirst(x + first, count), Set1(inverse_scale));
    StoreI8First(y + first, count, Max(Min(scaled, Set1(127.0f)), Set1(-128.0f)));
  });
}

void E4M3Row(const float* x, int64_t n, float inverse_scale, uint8_t* y) {
  ForEachPiece(n, [=](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    StoreE4M3First(y + first, count, Mul(LoadFirst(x + first, count), Set1(inverse_scale)));
  });
}

void StaticI8Row(const float* x, int64_t n, float inverse_scale, uint8_t* y) {
  I8Row(x, n, inverse_scale, y);
  for (int64_t i = 0; i < n; ++i) y[i] ^= 0x80;
}

void StaticE4M3Row(const float* x, int64_t n, float inverse_scale, uint16_t* y) {
  ForEachPiece(n, [=](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    const F32 scaled = Mul(LoadFirst(x + first, count), Set1(inverse_scale));
    StoreBf16First(y + first, count, RoundToE4M3(scaled));
  });
}

// load(first, count) gives `count` columns of the row.
template <class Load>
ENGINERY_INLINE void Quantize(int64_t n, uint8_t* y, float* scale, const Load& load) {
  // Four maxima hide the latency of each other's; their order does not matter.
  F32 largest[4] = {Set1(0.0f), Set1(0.0f), Set1(0.0f), Set1(0.0f)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      largest[j] = Max(largest[j], Abs(load(i + j * kLanes, int64_t{kLanes})));
    }
  }
  for (; i < n; i += kLanes) {
    largest[0] = Max(largest[0], Abs(load(i, n - i < kLanes ? n - i : kLanes)));
  }
  const float max_abs = ReduceMax(Max(Max(largest[0], largest[1]), Max(largest[2], largest[3])));
  // Below 127 / FLT_MAX the inverse overflows: such a row is zero for every purpose.
  const bool is_zero = max_abs < 1e-36f;
  *scale = is_zero ? 1.0f : max_abs / 127.0f;
  const F32 inverse = Set1(is_zero ? 0.0f : 127.0f / max_abs);
  ForEachPiece(n, [&](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    StoreQuantizedFirst(y + first, count, Mul(load(first, count), inverse));
  });
}

void QuantizeRow(const float* x, int64_t n, uint8_t* y, float* scale) {
  Quantize(n, y, scale, [=](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    return LoadFirst(x + first, count);
  });
}

void QuantizeRmsNormRow(const float* x, const float* weight, int64_t n, float epsilon, uint8_t* y,
                        float* scale) {
  const F32 rms_scale = RmsScale(x, n, epsilon);
  Quantize(n, y, scale, [=](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    const F32 v = Mul(LoadFirst(x + first, count), rms_scale);
    return Mul(v, LoadFirst(weight + first, count));
  });
}

void QuantizeBf16Row(const uint16_t* x, int64_t n, uint8_t* y, float* scale) {
  Quantize(n, y, scale, [=](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
    if (count == kLanes) return LoadBf16(x + first);
    uint16_t rest[kLanes] = {};
    __builtin_memcpy(rest, x + first, static_cast<size_t>(count) * sizeof(uint16_t));
    return LoadBf16(rest);
  });
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_ROWS_H_
