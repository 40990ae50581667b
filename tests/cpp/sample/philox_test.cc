// SPDX-License-Identifier: Apache-2.0
#include "sample/philox.h"

#include <fstream>
#include <sstream>
#include <string>

#include "check.h"

namespace enginery::test {
namespace {

TEST(known_answers) {
  std::ifstream file("tests/golden/philox.txt");
  REQUIRE(file.is_open());
  int num_vectors = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with('#')) continue;
    std::istringstream words(line);
    PhiloxCounter counter;
    PhiloxKey key;
    PhiloxCounter expected;
    words >> std::hex;
    for (auto* word : {&counter[0], &counter[1], &counter[2], &counter[3], &key[0], &key[1],
                       &expected[0], &expected[1], &expected[2], &expected[3]}) {
      words >> *word;
    }
    REQUIRE(!words.fail());
    CHECK(Philox4x32(counter, key) == expected);
    ++num_vectors;
  }
  CHECK_EQ(num_vectors, 7);
}

// From the last four vectors of the file: the first word above the second, 53 bits of them.
TEST(uniform_numbers) {
  CHECK_EQ(UniformAt(0, 0, 0), 0.3990464708489645);
  CHECK_EQ(UniformAt(1, 0, 5), 0.1602782174701749);
  CHECK_EQ(UniformAt(0x0123456789abcdef, 3, 1000), 0.4811882323459806);
  CHECK_EQ(UniformAt(0xffffffffffffffff, 63, 131071), 0.5329883985173196);
}

TEST(uniform_numbers_fill_the_interval_evenly) {
  constexpr int kDraws = 100'000;
  int counts[16] = {};
  double sum = 0.0;
  for (uint32_t i = 0; i < kDraws; ++i) {
    const double u = UniformAt(7, i % 5, i);
    REQUIRE(u >= 0.0 && u < 1.0);
    ++counts[static_cast<int>(u * 16)];
    sum += u;
  }
  // Chi-squared of 15 degrees of freedom: above 37.7 once in a thousand seeds; this one is fixed.
  double chi_squared = 0.0;
  for (const int count : counts) {
    const double expected = kDraws / 16.0;
    chi_squared += (count - expected) * (count - expected) / expected;
  }
  CHECK_LT(chi_squared, 37.7);
  CHECK_NEAR(sum / kDraws, 0.5, 0.005);
}

}  // namespace
}  // namespace enginery::test
