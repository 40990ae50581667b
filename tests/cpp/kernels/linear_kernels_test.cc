// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "check.h"
#include "kernels/kernels.h"
#include "support/packing.h"

namespace enginery::test {
namespace {

// A product with everything that a linear can have, and its result in double.
struct Case {
  int64_t rows = 0, n = 0, k = 0;
  AlignedBytes x;  // rows exactly k wide: a kernel that reads past them is caught by ASan
  AlignedBytes weight;
  std::vector<float> x_scale, scale, bias, before;
  std::vector<int32_t> column_sums;
  AlignedBytes group_scales, block_scales, scratch;
  std::vector<double> expected,
      magnitude;  // magnitude: sum of absolute products, which bounds rounding
  LinearKernel Kernels::* kernel = nullptr;
  int64_t group = 0;  // of i4
  bool accumulate = false;

  LinearArgs Args(std::vector<float>& y) const {
    LinearArgs args{};
    args.x = x.data();
    args.x_pitch = static_cast<int64_t>(x.size()) / rows;
    args.x_scale = x_scale.empty() ? nullptr : x_scale.data();
    args.weight = weight.data();
    args.scale = scale.empty() ? nullptr : scale.data();
    args.bias = bias.empty() ? nullptr : bias.data();
    args.column_sums = column_sums.data();
    args.group_scales = reinterpret_cast<const int8_t*>(group_scales.data());
    if (!block_scales.empty()) {
      args.block_scales = reinterpret_cast<const float*>(block_scales.data());
    }
    args.group = group;
    args.scratch = const_cast<std::byte*>(scratch.data());
    args.y = y.data();
    args.y_pitch = n;
    args.num_rows = rows;
    args.n = n;
    args.k = k;
    args.panel_begin = 0;
    args.panel_end = (n + 15) / 16;
    args.accumulate = accumulate;
    return args;
  }

  std::vector<float> Run(const Kernels& kernels) const {
    std::vector<float> y = before;
    (kernels.*kernel)(Args(y));
    return y;
  }
};

template <class T>
AlignedBytes BytesOf(const std::vector<T>& values) {
  AlignedBytes bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::vector<double> ToDouble(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}
std::vector<double> ToDouble(const std::vector<uint16_t>& values) {
  std::vector<double> out;
  for (const uint16_t value : values) out.push_back(static_cast<double>(FromBf16(value)));
  return out;
}
std::vector<double> ToDouble(const std::vector<int8_t>& values) {
  return {values.begin(), values.end()};
}

void Expect(Case& c, const std::vector<double>& x, const std::vector<double>& w) {
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t i = 0; i < c.n; ++i) {
      double sum = 0;
      double magnitude = 0;
      for (int64_t j = 0; j < c.k; ++j) {
        const double product =
            x[static_cast<size_t>(r * c.k + j)] * w[static_cast<size_t>(i * c.k + j)];
        sum += product;
        magnitude += std::fabs(product);
      }
      const double scale =
          (c.x_scale.empty() ? 1.0 : static_cast<double>(c.x_scale[static_cast<size_t>(r)])) *
          (c.scale.empty() ? 1.0 : static_cast<double>(c.scale[static_cast<size_t>(i)]));
      const double bias =
          c.bias.empty() ? 0.0 : static_cast<double>(c.bias[static_cast<size_t>(i)]);
      const double before =
          c.accumulate ? static_cast<double>(c.before[static_cast<size_t>(r * c.n + i)]) : 0.0;
      c.expected.push_back(before + sum * scale + bias);
      c.magnitude.push_back(magnitude * std::fabs(scale) + std::fabs(bias) + std::fabs(before));
    }
  }
}

enum class Scheme {
  kF32F32,
  kBf16Bf16,
  kI8I8,
  kF32I8,
  kBf16I8,
  kI8I4,
  kBf16E4M3,
  kBf16I4,
  kE4M3I4
};
constexpr Scheme kSchemes[] = {Scheme::kF32F32,   Scheme::kBf16Bf16, Scheme::kI8I8,
                               Scheme::kF32I8,    Scheme::kBf16I8,   Scheme::kI8I4,
                               Scheme::kBf16E4M3, Scheme::kBf16I4,   Scheme::kE4M3I4};

// With `group` for each scale of i4; 0 takes one by n and k, so that all cases together try all.
Case MakeCase(Scheme scheme, int64_t rows, int64_t n, int64_t k, bool with_epilogue,
              int64_t group = 0) {
  Case c;
  c.rows = rows;
  c.n = n;
  c.k = k;
  const auto seed = static_cast<uint32_t>(rows * 10007 + n * 101 + k);
  c.before = RandomFloats(rows * n, seed + 1);
  c.group = group != 0 ? group : kWeightGroups[(n + k) % 3];
  if (with_epilogue) {
    c.scale = RandomFloats(n, seed + 2);
    c.bias = RandomFloats(n, seed + 3);
    c.accumulate = true;
  }
  const auto f32 = RandomFloats(rows * k, seed + 4);
  const auto bf16 = RandomBf16(rows * k, seed + 4);
  const auto i8 = RandomInt8(rows * k, seed + 4);
  std::vector<double> x;
  std::vector<double> w;
  if (scheme == Scheme::kF32F32) {
    const auto weight = RandomFloats(n * k, seed + 5);
    c.kernel = &Kernels::linear_f32_f32;
    c.weight = Pack(weight, n, k, 1);
    w = ToDouble(weight);
  } else if (scheme == Scheme::kBf16Bf16) {
    const auto weight = RandomBf16(n * k, seed + 5);
    c.kernel = &Kernels::linear_bf16_bf16;
    c.weight = Pack(weight, n, k, 2);
    w = ToDouble(weight);
  } else if (scheme == Scheme::kBf16E4M3) {
    std::vector<uint8_t> codes;
    for (const float value : RandomFloats(n * k, seed + 5, 500.0f)) codes.push_back(ToE4M3(value));
    for (size_t i = 0; i < codes.size(); i += 7) codes[i] &= 0x87;  // subnormal numbers
    c.kernel = &Kernels::linear_bf16_e4m3;
    c.weight = Pack(codes, n, k, 2);
    for (const uint8_t code : codes) w.push_back(static_cast<double>(FromE4M3(code)));
  } else if (scheme == Scheme::kBf16I4 || scheme == Scheme::kE4M3I4) {
    const bool is_e4m3 = scheme == Scheme::kE4M3I4;
    const GroupedWeight weight = RandomGroupedWeight(n, k, c.group, seed + 5);
    std::vector<float> scales =
        RandomFloats(n * weight.num_groups, seed + 7, is_e4m3 ? 64.0f : 0.1f);
    if (is_e4m3) {  // products that are subnormal numbers, and some beyond the largest
      for (size_t i = 0; i < scales.size(); i += 3) scales[i] *= i % 2 == 0 ? 0x1p-14f : 2.0f;
    }
    c.kernel = is_e4m3 ? &Kernels::linear_e4m3_i4 : &Kernels::linear_bf16_i4;
    c.weight = PackI4(weight.codes, n, k);
    c.block_scales = Pack(scales, n, weight.num_groups, 1);
    for (int64_t i = 0; i < n * k; ++i) {
      const auto group = static_cast<size_t>(i / k * weight.num_groups + i % k / c.group);
      const float value = static_cast<float>(weight.codes[static_cast<size_t>(i)]) * scales[group];
      const float rounded = is_e4m3 ? FromE4M3(ToE4M3(value)) : FromBf16(ToBf16(value));
      w.push_back(static_cast<double>(rounded));
    }
  } else if (scheme == Scheme::kI8I4) {
    const GroupedWeight weight = RandomGroupedWeight(n, k, c.group, seed + 5);
    c.kernel = &Kernels::linear_i8_i4;
    c.weight = PackI4(weight.codes, n, k);
    c.group_scales = Pack(weight.group_scales, n, weight.num_groups, 1);
    w = ToDouble(weight.products);
    for (int64_t i = 0; i < n; ++i) {
      c.column_sums.push_back(std::accumulate(weight.products.begin() + i * k,
                                              weight.products.begin() + (i + 1) * k, 0));
    }
  } else {
    const auto weight = RandomInt8(n * k, seed + 5);
    c.kernel = scheme == Scheme::kI8I8    ? &Kernels::linear_i8_i8
               : scheme == Scheme::kF32I8 ? &Kernels::linear_f32_i8
                                          : &Kernels::linear_bf16_i8;
    c.weight = Pack(weight, n, k, 4);
    w = ToDouble(weight);
    for (int64_t i = 0; i < n; ++i) {
      int32_t sum = 0;
      for (int64_t j = 0; j < k; ++j) sum += weight[static_cast<size_t>(i * k + j)];
      c.column_sums.push_back(sum);
    }
  }
  if (scheme == Scheme::kI8I8 || scheme == Scheme::kI8I4) {
    std::vector<uint8_t> shifted;
    for (const int8_t q : i8) shifted.push_back(static_cast<uint8_t>(q + kActivationZeroPoint));
    c.x = BytesOf(shifted);
    c.x_scale = RandomFloats(rows, seed + 6);
    x = ToDouble(i8);
  } else if (scheme == Scheme::kF32F32 || scheme == Scheme::kF32I8) {
    c.x = BytesOf(f32);
    x = ToDouble(f32);
  } else {
    c.x = BytesOf(bf16);
    x = ToDouble(bf16);
  }
  c.scratch.resize(static_cast<size_t>(LinearScratchBytes(k)));
  Expect(c, x, w);
  return c;
}

constexpr int64_t kRowCounts[] = {1, 2, 3, 5, 6, 7, 9, 13, 16, 17, 33, 50};
constexpr int64_t kChannels[] = {1, 15, 16, 17, 64, 111};
constexpr int64_t kDepths[] = {1, 3, 4, 6, 63, 130, 262, 525};

TEST(products_agree_with_double) {
  for (const Kernels* kernels : AvailableKernels()) {
    for (const Scheme scheme : kSchemes) {
      for (const int64_t rows : kRowCounts) {
        for (const int64_t n : kChannels) {
          for (const int64_t k : kDepths) {
            const Case c = MakeCase(scheme, rows, n, k, (rows + n + k) % 2 == 0);
            const std::vector<float> y = c.Run(*kernels);
            for (size_t i = 0; i < y.size(); ++i) {
              // A rounding of at most half an ulp per accumulated product, and four in the end.
              const double tolerance =
                  c.magnitude[i] * (static_cast<double>(k) + 4.0) * 6e-8 + 1e-30;
              CHECK_NEAR(y[i], c.expected[i], tolerance);
            }
          }
        }
      }
    }
  }
}

// What batch invariance rests on: the rows beside a row do not matter, nor how the panels are cut
// into calls.
TEST(a_row_alone_is_the_same_row) {
  for (const Kernels* kernels : AvailableKernels()) {
    for (const Scheme scheme : kSchemes) {
      for (const auto& [k, group] : {std::pair(63, 128), std::pair(896, 128), std::pair(896, 64),
                                     std::pair(896, 32), std::pair(63, 32)}) {
        const bool has_groups =
            scheme == Scheme::kI8I4 || scheme == Scheme::kBf16I4 || scheme == Scheme::kE4M3I4;
        if (!has_groups && group != kWeightGroups[0]) continue;
        const Case c = MakeCase(scheme, 70, 111, k, true, group);
        const std::vector<float> whole = c.Run(*kernels);
        for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 9, 13, 16}) {
          std::vector<float> y = c.before;
          for (int64_t row = 0; row < c.rows; row += rows) {
            for (int64_t panel = 0; panel < 7; panel += 1 + row % 5) {
              LinearArgs args = c.Args(y);
              args.x = c.x.data() + row * args.x_pitch;
              args.y += row * c.n;
              if (args.x_scale != nullptr) args.x_scale += row;
              args.num_rows = std::min(rows, c.rows - row);
              args.panel_begin = panel;
              args.panel_end = std::min<int64_t>(7, panel + 1 + row % 5);
              (kernels->*c.kernel)(args);
            }
          }
          CHECK(SameBits(y, whole));
        }
      }
    }
  }
}

TEST(x_is_prepared_once_for_several_calls) {
  for (const Kernels* kernels : AvailableKernels()) {
    for (const Scheme scheme : kSchemes) {
      for (const int64_t rows : kRowCounts) {
        const Case c = MakeCase(scheme, rows, 111, 262, true);
        const std::vector<float> whole = c.Run(*kernels);
        std::vector<float> y = c.before;
        LinearArgs args = c.Args(y);
        args.panel_end = 0;
        for (const int64_t end : {2, 3, 7}) {
          args.panel_begin = std::exchange(args.panel_end, end);
          (kernels->*c.kernel)(args);
          args.is_prepared = true;
        }
        CHECK(SameBits(y, whole));
      }
    }
  }
}

TEST(integer_sums_are_bit_equal_on_every_instruction_set) {
  for (const Scheme scheme : {Scheme::kI8I8, Scheme::kI8I4}) {
    for (const int64_t rows : kRowCounts) {
      for (const int64_t k : {1, 5, 63, 896}) {
        for (const int64_t group : kWeightGroups) {
          if (scheme == Scheme::kI8I8 && group != kWeightGroups[0]) continue;
          const Case c = MakeCase(scheme, rows, 111, k, k % 2 == 1, group);
          const std::vector<float> expected = c.Run(PortableKernels());
          for (const Kernels* kernels : AvailableKernels()) {
            CHECK(SameBits(c.Run(*kernels), expected));
          }
        }
      }
    }
  }
}

// A gated product is the product, silu_mul_row and bf16_row, bit for bit.
TEST(gated_products_are_the_three_kernels_after_each_other) {
  for (const Kernels* kernels : AvailableKernels()) {
    for (const auto& [scheme, gated] : {std::pair(Scheme::kI8I8, kernels->gated_i8_i8),
                                        std::pair(Scheme::kBf16Bf16, kernels->gated_bf16_bf16)}) {
      if (gated == nullptr) continue;
      for (const int64_t rows : {1, 5, 16, 17, 33, 50, 64}) {
        for (const int64_t n : {32, 64, 160}) {
          for (const int64_t k : {63, 262, 896}) {
            Case c = MakeCase(scheme, rows, n, k, true);
            c.accumulate = false;
            const std::vector<float> product = c.Run(*kernels);
            std::vector<float> y = c.before;
            std::vector<uint16_t> actual(static_cast<size_t>(rows * n / 2));
            LinearArgs args = c.Args(y);
            args.y = reinterpret_cast<float*>(actual.data());
            args.y_pitch = n / 2;
            for (const int64_t cut : {int64_t{0}, n / 64}) {  // of the panels into two calls
              std::fill(actual.begin(), actual.end(), uint16_t{0});
              args.panel_begin = 0;
              args.panel_end = cut;
              if (cut > 0) gated(args);
              args.panel_begin = cut;
              args.panel_end = n / 32;
              gated(args);
              for (int64_t r = 0; r < rows; ++r) {
                const float* gate = product.data() + r * n;
                std::vector<float> silu(static_cast<size_t>(n / 2));
                std::vector<uint16_t> expected(silu.size());
                kernels->silu_mul_row(gate, gate + n / 2, n / 2, silu.data());
                kernels->bf16_row(silu.data(), n / 2, expected.data());
                CHECK(std::equal(expected.begin(), expected.end(), actual.begin() + r * n / 2));
              }
            }
          }
        }
      }
    }
  }
}

// The largest sums that there are: saturation anywhere would show.
TEST(int8_does_not_saturate) {
  constexpr int64_t kDepth = 4096;
  Case c = MakeCase(Scheme::kI8I8, 2, 16, kDepth, false);
  const std::vector<int8_t> weight(16 * kDepth, -127);
  c.weight = Pack(weight, 16, kDepth, 4);
  c.column_sums.assign(16, -127 * static_cast<int32_t>(kDepth));
  std::memset(c.x.data(), 127 + kActivationZeroPoint, kDepth);
  std::memset(c.x.data() + kDepth, -127 + kActivationZeroPoint, kDepth);
  c.x_scale = {1.0f, 1.0f};
  for (const Kernels* kernels : AvailableKernels()) {
    const std::vector<float> y = c.Run(*kernels);
    for (size_t i = 0; i < 16; ++i) {
      CHECK_EQ(y[i], -127.0f * 127.0f * 4096.0f);
      CHECK_EQ(y[16 + i], 127.0f * 127.0f * 4096.0f);
    }
  }
}

TEST(kernels_are_found_by_name) {
  CHECK(FindKernels("portable") == &PortableKernels());
  CHECK(FindKernels("auto") == AvailableKernels().back());
  CHECK(FindKernels("sse9") == nullptr);
  for (const Kernels* kernels : AvailableKernels()) CHECK(FindKernels(kernels->name) == kernels);
}

}  // namespace
}  // namespace enginery::test
