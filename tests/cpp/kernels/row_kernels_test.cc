// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "check.h"
#include "kernels/kernels.h"
#include "support/packing.h"

namespace enginery::test {
namespace {

constexpr int64_t kLengths[] = {1, 15, 16, 17, 31, 63, 64, 65, 111, 128, 897};

TEST(rms_norm_agrees_with_double) {
  for (const Kernels* kernels : AvailableKernels()) {
    for (const int64_t n : kLengths) {
      const auto x = RandomFloats(n, static_cast<uint32_t>(n), 3.0f);
      const auto weight = RandomFloats(n, static_cast<uint32_t>(n) + 1);
      std::vector<float> y(x.size());
      kernels->rms_norm_row(x.data(), weight.data(), n, 1e-5f, y.data());
      double sum = 0;
      for (const float value : x) sum += static_cast<double>(value) * static_cast<double>(value);
      const double scale = 1.0 / std::sqrt(sum / static_cast<double>(n) + 1e-5);
      std::vector<float> in_place = x;
      kernels->rms_norm_row(in_place.data(), weight.data(), n, 1e-5f, in_place.data());
      CHECK(SameBits(in_place, y));
      for (size_t i = 0; i < y.size(); ++i) {
        const double expected = static_cast<double>(x[i]) * scale * static_cast<double>(weight[i]);
        CHECK_NEAR(y[i], expected, 1e-6 * std::fabs(expected));
      }
    }
  }
}

TEST(silu_mul_agrees_with_double_up_to_the_ends_of_the_range) {
  for (const Kernels* kernels : AvailableKernels()) {
    for (const int64_t n : kLengths) {
      auto gate = RandomFloats(n, static_cast<uint32_t>(n), 20.0f);
      gate[0] = n % 3 == 0 ? -1000.0f : n % 3 == 1 ? 1000.0f : 0.0f;
      const auto up = RandomFloats(n, static_cast<uint32_t>(n) + 1);
      std::vector<float> y(gate.size());
      kernels->silu_mul_row(gate.data(), up.data(), n, y.data());
      for (size_t i = 0; i < y.size(); ++i) {
        const double g = static_cast<double>(gate[i]);
        const double expected = g / (1.0 + std::exp(-g)) * static_cast<double>(up[i]);
        // The exponent is rounded: half an ulp of it is a relative error of the power.
        const double relative = 1e-6 + 6e-8 * std::fabs(g);
        CHECK_NEAR(y[i], expected, relative * std::fabs(expected) + 1e-30);
      }
    }
  }
}

TEST(add_and_rope_agree_with_double) {
  for (const Kernels* kernels : AvailableKernels()) {
    for (const int64_t n : kLengths) {
      constexpr int64_t kHeads = 3;
      const auto x = RandomFloats(kHeads * 2 * n, static_cast<uint32_t>(n));
      const auto angles = RandomFloats(n, static_cast<uint32_t>(n) + 1, 100.0f);
      std::vector<float> cos, sin;
      for (const float angle : angles) {
        cos.push_back(std::cos(angle));
        sin.push_back(std::sin(angle));
      }
      std::vector<float> rotated = x;
      kernels->rope_heads(rotated.data(), kHeads, 2 * n, cos.data(), sin.data());
      std::vector<float> sum = x;
      kernels->add_row(rotated.data(), kHeads * 2 * n, sum.data());
      for (int64_t i = 0; i < kHeads * n; ++i) {
        const auto angle = static_cast<size_t>(i % n);
        const auto a = static_cast<size_t>(i / n * 2 * n + i % n);
        const auto b = a + static_cast<size_t>(n);
        CHECK_NEAR(rotated[a], x[a] * cos[angle] - x[b] * sin[angle], 1e-6);
        CHECK_NEAR(rotated[b], x[b] * cos[angle] + x[a] * sin[angle], 1e-6);
        CHECK_EQ(sum[a], x[a] + rotated[a]);
        CHECK_EQ(sum[b], x[b] + rotated[b]);
      }
    }
  }
}

TEST(a_row_is_multiplied_by_a_factor_for_each_column) {
  for (const Kernels* kernels : AvailableKernels()) {
    for (const int64_t n : kLengths) {
      const auto x = RandomFloats(n, static_cast<uint32_t>(n), 3.0f);
      const auto factor = RandomFloats(n, static_cast<uint32_t>(n) + 1);
      std::vector<float> y(x.size() + 1, 7.0f);
      kernels->multiply_row(x.data(), factor.data(), n, y.data());
      for (size_t i = 0; i < x.size(); ++i) CHECK_EQ(y[i], x[i] * factor[i]);
      CHECK_EQ(y.back(), 7.0f);  // nothing past the end
      std::vector<float> in_place = x;
      kernels->multiply_row(in_place.data(), factor.data(), n, in_place.data());
      y.pop_back();
      CHECK(SameBits(in_place, y));
    }
  }
}

// As docs/engine-format.md says it: column by column, then halves onto halves.
float GroupSum(const float* x, int64_t n) {
  std::array<float, 16> partial{};
  for (int64_t i = 0; i < n; ++i) partial[static_cast<size_t>(i % 16)] += x[i];
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) partial[i] += partial[i + half];
  }
  return partial[0];
}

TEST(sums_of_groups_are_bit_equal_on_every_instruction_set) {
  for (const int64_t n : kLengths) {
    const auto x = RandomFloats(n, static_cast<uint32_t>(n), 3.0f);
    std::vector<uint16_t> rounded;
    std::vector<float> widened;
    for (const float value : x) {
      rounded.push_back(ToBf16(value));
      widened.push_back(FromBf16(rounded.back()));
    }
    for (const int64_t group : {1, 2, 15, 16, 17, 32, 100, 128, 1000}) {
      std::vector<float> expected, of_bf16;
      for (int64_t begin = 0; begin < n; begin += group) {
        const int64_t count = std::min(group, n - begin);
        expected.push_back(GroupSum(x.data() + begin, count));
        of_bf16.push_back(GroupSum(widened.data() + begin, count));
        double sum = 0, magnitude = 0;
        for (int64_t i = begin; i < begin + count; ++i) {
          const auto value = static_cast<double>(x[static_cast<size_t>(i)]);
          sum += value;
          magnitude += std::fabs(value);
        }
        CHECK_NEAR(expected.back(), sum, 1e-6 * magnitude);
      }
      for (const Kernels* kernels : AvailableKernels()) {
        std::vector<float> y(expected.size() + 1, 7.0f);
        kernels->group_sums_row(x.data(), n, group, y.data());
        CHECK_EQ(y.back(), 7.0f);  // nothing past the end
        y.pop_back();
        CHECK(SameBits(y, expected));
        kernels->group_sums_bf16_row(rounded.data(), n, group, y.data());
        CHECK(SameBits(y, of_bf16));
      }
    }
  }
}

TEST(sums_of_groups_of_codes_are_exact) {
  for (const int64_t n : kLengths) {
    const auto codes = RandomInt8(n, static_cast<uint32_t>(n));
    std::vector<uint8_t> x;
    for (const int8_t code : codes) x.push_back(static_cast<uint8_t>(code + kActivationZeroPoint));
    for (const int64_t group : {1, 31, 32, 64, 100, 128, 1000}) {
      std::vector<float> expected;
      for (int64_t begin = 0; begin < n; begin += group) {
        int32_t sum = 0;
        for (int64_t i = begin; i < std::min(n, begin + group); ++i) {
          sum += codes[static_cast<size_t>(i)];
        }
        expected.push_back(static_cast<float>(sum) * 0.37f);
      }
      for (const Kernels* kernels : AvailableKernels()) {
        std::vector<float> y(expected.size() + 1, 7.0f);
        kernels->group_sums_i8_row(x.data(), n, group, 0.37f, y.data());
        CHECK_EQ(y.back(), 7.0f);  // nothing past the end
        y.pop_back();
        CHECK(SameBits(y, expected));
      }
    }
  }
}

TEST(bf16_rounds_to_nearest_even_and_keeps_nan) {
  const std::vector<float> x = {1.0f,
                                1.00390625f,
                                1.01171875f,
                                1.0039065f,
                                -2.5f,
                                3.0e38f,
                                std::numeric_limits<float>::infinity(),
                                std::numeric_limits<float>::max()};
  const std::vector<uint16_t> expected = {0x3F80, 0x3F80, 0x3F82, 0x3F81,
                                          0xC020, 0x7F62, 0x7F80, 0x7F80};
  for (const Kernels* kernels : AvailableKernels()) {
    std::vector<uint16_t> y(x.size());
    kernels->bf16_row(x.data(), static_cast<int64_t>(x.size()), y.data());
    for (size_t i = 0; i < x.size(); ++i) CHECK_EQ(y[i], expected[i]);
    const float nan = std::bit_cast<float>(0x7F800001u);
    uint16_t rounded = 0;
    kernels->bf16_row(&nan, 1, &rounded);
    CHECK(std::isnan(FromBf16(rounded)));
    for (const int64_t n : kLengths) {
      const auto values = RandomFloats(n, static_cast<uint32_t>(n), 1e10f);
      std::vector<uint16_t> row(values.size());
      kernels->bf16_row(values.data(), n, row.data());
      for (size_t i = 0; i < row.size(); ++i) CHECK_EQ(row[i], ToBf16(values[i]));
      const auto others = RandomFloats(n, static_cast<uint32_t>(n) + 1);
      std::vector<uint16_t> pairs(2 * values.size());
      kernels->bf16_row_pair(values.data(), others.data(), n, pairs.data());
      for (size_t i = 0; i < row.size(); ++i) {
        CHECK_EQ(pairs[2 * i], row[i]);
        CHECK_EQ(pairs[2 * i + 1], ToBf16(others[i]));
      }
    }
  }
}

struct Quantized {
  std::vector<uint8_t> q;
  float scale;
};

Quantized Quantize(const Kernels& kernels, const std::vector<float>& x) {
  Quantized result{std::vector<uint8_t>(x.size()), 0.0f};
  kernels.quantize_row(x.data(), static_cast<int64_t>(x.size()), result.q.data(), &result.scale);
  return result;
}

TEST(a_quantised_rms_norm_is_the_one_after_the_other) {
  for (const Kernels* kernels : AvailableKernels()) {
    for (const int64_t n : kLengths) {
      const auto x = RandomFloats(n, static_cast<uint32_t>(n), 3.0f);
      const auto weight = RandomFloats(n, static_cast<uint32_t>(n) + 1);
      std::vector<float> normed(x.size());
      kernels->rms_norm_row(x.data(), weight.data(), n, 1e-5f, normed.data());
      const Quantized expected = Quantize(*kernels, normed);
      Quantized actual{std::vector<uint8_t>(x.size() + 1, 0xA5), 0.0f};
      kernels->quantize_rms_norm_row(x.data(), weight.data(), n, 1e-5f, actual.q.data(),
                                     &actual.scale);
      CHECK_EQ(actual.scale, expected.scale);
      CHECK_EQ(int{actual.q.back()}, 0xA5);  // nothing past the end
      actual.q.pop_back();
      CHECK(actual.q == expected.q);
    }
  }
}

TEST(a_nan_stays_one_as_an_operand_of_e4m3) {
  const float nan = std::nanf("");
  for (const Kernels* kernels : AvailableKernels()) {
    uint16_t rounded = 0;
    kernels->static_e4m3_row(&nan, 1, 1.0f, &rounded);
    CHECK(std::isnan(FromBf16(rounded)));
  }
}

// Every code, what lies halfway to the next one and just beside that, and what is out of range.
TEST(i8_and_e4m3_codes_are_the_nearest_and_saturate) {
  constexpr float kScale = 0.125f;
  std::vector<float> of_i8 = {-200.0f, -128.5f, 127.5f, 1e30f, -1e30f, 0.0f, -0.0f};
  for (int code = -128; code < 128; ++code) {
    const auto value = static_cast<float>(code);
    of_i8.insert(of_i8.end(), {value, value + 0.5f, std::nextafter(value + 0.5f, 0.0f)});
  }
  std::vector<float> of_e4m3 = {464.0f, 480.0f, -1e30f, 1e-12f, -1e-12f, 0.0f, -0.0f};
  for (uint8_t code = 0; code < 126; ++code) {
    const float value = FromE4M3(code);
    const float half = (value + FromE4M3(static_cast<uint8_t>(code + 1))) / 2;
    of_e4m3.insert(of_e4m3.end(), {value, -value, half, -half, std::nextafter(half, 0.0f),
                                   std::nextafter(half, 1e9f)});
  }
  for (const Kernels* kernels : AvailableKernels()) {
    for (const auto& [values, is_i8] : {std::pair(&of_i8, true), std::pair(&of_e4m3, false)}) {
      for (const size_t n : {values->size(), size_t{1}, size_t{19}}) {
        std::vector<float> x;
        for (size_t i = 0; i < n; ++i) x.push_back((*values)[i] * kScale);
        std::vector<uint8_t> y(n + 1, 0xA5);
        const auto row = is_i8 ? kernels->i8_row : kernels->e4m3_row;
        row(x.data(), static_cast<int64_t>(n), 1 / kScale, y.data());
        for (size_t i = 0; i < n; ++i) {
          const float value = (*values)[i];
          const uint8_t expected = is_i8 ? static_cast<uint8_t>(static_cast<int8_t>(
                                               std::clamp(std::nearbyint(value), -128.0f, 127.0f)))
                                         : ToE4M3(value);
          CHECK_EQ(int{y[i]}, int{expected});
        }
        CHECK_EQ(int{y[n]}, 0xA5);  // nothing past the end
        // As operands: codes + 128, or their values in bf16.
        if (is_i8) {
          std::vector<uint8_t> shifted(n);
          kernels->static_i8_row(x.data(), static_cast<int64_t>(n), 1 / kScale, shifted.data());
          for (size_t i = 0; i < n; ++i) CHECK_EQ(int{shifted[i]}, int{y[i]} ^ 0x80);
        } else {
          std::vector<uint16_t> rounded(n);
          kernels->static_e4m3_row(x.data(), static_cast<int64_t>(n), 1 / kScale, rounded.data());
          for (size_t i = 0; i < n; ++i) CHECK_EQ(int{rounded[i]}, int{ToBf16(FromE4M3(y[i]))});
        }
      }
    }
  }
}

TEST(quantize_is_symmetric_to_the_largest_and_rounds_to_even) {
  for (const Kernels* kernels : AvailableKernels()) {
    const Quantized ties = Quantize(*kernels, {127.0f, -127.0f, 0.5f, 1.5f, -2.5f, 126.4f, 0.0f});
    CHECK_EQ(ties.scale, 1.0f);
    const std::vector<int> expected = {127, -127, 0, 2, -2, 126, 0};
    for (size_t i = 0; i < expected.size(); ++i) CHECK_EQ(ties.q[i] - 128, expected[i]);
    const Quantized zeros = Quantize(*kernels, std::vector<float>(17, 0.0f));
    CHECK_EQ(zeros.scale, 1.0f);
    for (const uint8_t q : zeros.q) CHECK_EQ(q, 128);
    const Quantized tiny = Quantize(*kernels, std::vector<float>(3, 1e-40f));
    CHECK_EQ(tiny.scale, 1.0f);
    CHECK_EQ(tiny.q[0], 128);
  }
}

TEST(quantize_is_bit_equal_on_every_instruction_set) {
  for (const int64_t n : kLengths) {
    for (const float spread : {1e-20f, 1e-3f, 1.0f, 1e20f}) {
      const auto x = RandomFloats(n, static_cast<uint32_t>(n), spread);
      const Quantized expected = Quantize(PortableKernels(), x);
      double largest = 0;
      for (const float value : x)
        largest = std::max(largest, std::fabs(static_cast<double>(value)));
      CHECK_NEAR(expected.scale, largest / 127, largest * 1e-8);
      for (size_t i = 0; i < x.size(); ++i) {
        const double real = (expected.q[i] - 128) * static_cast<double>(expected.scale);
        CHECK_NEAR(real, x[i], 0.50001 * static_cast<double>(expected.scale));
      }
      std::vector<uint16_t> rounded;
      std::vector<float> widened;
      for (const float value : x) {
        rounded.push_back(ToBf16(value));
        widened.push_back(FromBf16(rounded.back()));
      }
      const Quantized of_rounded = Quantize(PortableKernels(), widened);
      for (const Kernels* kernels : AvailableKernels()) {
        const Quantized actual = Quantize(*kernels, x);
        CHECK(actual.q == expected.q);
        CHECK_EQ(actual.scale, expected.scale);
        Quantized from_bf16{std::vector<uint8_t>(x.size()), 0.0f};
        kernels->quantize_bf16_row(rounded.data(), n, from_bf16.q.data(), &from_bf16.scale);
        CHECK(from_bf16.q == of_rounded.q);
        CHECK_EQ(from_bf16.scale, of_rounded.scale);
      }
    }
  }
}

}  // namespace
}  // namespace enginery::test
