// SPDX-License-Identifier: Apache-2.0
#include "check.h"

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

namespace {

// The number of failures that `body` records; they are taken off the running test.
template <typename Body>
int failures_of(Body body) {
  int& count = enginery::test::failures_in_case();
  const int before = count;
  try {
    body();
  } catch (const enginery::test::Abandoned&) {
  }
  const int recorded = count - before;
  count = before;
  return recorded;
}

void throw_range(const char* message) { throw std::out_of_range(message); }

TEST(comparisons_that_hold_record_nothing) {
  CHECK_EQ(failures_of([] {
             CHECK(true);
             CHECK_EQ(std::string("a"), "a");
             CHECK_NE(1, 2);
             CHECK_LT(-1, 1u);
             CHECK_LE(2, 2);
             CHECK_GT(uint8_t{200}, int8_t{-56});
             CHECK_GE(1.5, 1.5);
             CHECK_NEAR(1.0, 1.1, 0.2);
           }),
           0);
}

TEST(comparisons_that_do_not_hold_record_one_failure_each) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_EQ(failures_of([&] {
             CHECK(false);
             CHECK_EQ(-1, std::numeric_limits<uint32_t>::max());
             CHECK_NE(1, 1);
             CHECK_LT(1u, -1);
             CHECK_GE(1, 2);
             CHECK_NEAR(1.0, 1.3, 0.2);
             CHECK_NEAR(nan, nan, 1.0);
           }),
           7);
}

TEST(require_ends_the_test_at_its_first_failure) {
  CHECK_EQ(failures_of([] {
             REQUIRE_EQ(1, 2);
             CHECK(false);
           }),
           1);
  CHECK_EQ(failures_of([] {
             REQUIRE(false);
             CHECK(false);
           }),
           1);
}

TEST(throws_checks_the_type_and_the_message) {
  CHECK_THROWS(throw_range("offset 9"), std::logic_error);
  CHECK_THROWS_WITH(throw_range("offset 9"), std::out_of_range, "9");
  CHECK_EQ(failures_of([] { CHECK_THROWS(throw_range("x"), std::runtime_error); }), 1);
  CHECK_EQ(failures_of([] { CHECK_THROWS_WITH(throw_range("x"), std::out_of_range, "y"); }), 1);
  CHECK_EQ(failures_of([] { CHECK_THROWS(static_cast<void>(0), std::out_of_range); }), 1);
}

}  // namespace
