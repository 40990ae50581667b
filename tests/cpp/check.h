// SPDX-License-Identifier: Apache-2.0
//
// The test harness: TEST registers a test, CHECK* records a failure and goes on, REQUIRE* ends the
// test. Include it in exactly one translation unit per executable (it defines main). An argument
// on the command line runs the tests whose name contains it; a run of no tests is a failure.
//
//   TEST(block_is_freed_once) {
//     BlockPool pool(4);
//     REQUIRE(pool.allocate().has_value());
//     CHECK_EQ(pool.num_free(), 3);
//   }
#pragma once

#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace enginery::test {

struct Case {
  const char* name;
  void (*run)();
};

// Thrown by REQUIRE* to leave a test; the failure is already recorded.
struct Abandoned {};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& failures_in_case() {
  static int count = 0;
  return count;
}

struct Registration {
  Registration(const char* name, void (*run)()) { cases().push_back({name, run}); }
};

inline void fail(const char* file, int line, const std::string& what) {
  ++failures_in_case();
  std::cerr << "  " << file << ":" << line << ": " << what << "\n";
}

template <typename T>
std::string show(const T& value) {
  std::ostringstream out;
  out.precision(9);
  if constexpr (std::is_enum_v<T>) {
    out << static_cast<long long>(value);
  } else if constexpr (std::is_same_v<T, signed char> || std::is_same_v<T, unsigned char>) {
    out << static_cast<int>(value);
  } else if constexpr (requires { out << value; }) {
    out << value;
  } else {
    out << "<value>";
  }
  return out.str();
}

// Integers of different signedness compare by value, not after conversion.
template <typename A, typename B>
constexpr bool are_plain_integers_v =
    std::is_integral_v<A> && std::is_integral_v<B> && !std::is_same_v<A, bool> &&
    !std::is_same_v<B, bool> && !std::is_same_v<A, char> && !std::is_same_v<B, char>;

#define ENGINERY_TEST_COMPARISON(name, op, std_cmp) \
  struct name {                                     \
    static constexpr const char* symbol = #op;      \
    template <typename A, typename B>               \
    static bool holds(const A& a, const B& b) {     \
      if constexpr (are_plain_integers_v<A, B>) {   \
        return std_cmp(a, b);                       \
      } else {                                      \
        return a op b;                              \
      }                                             \
    }                                               \
  };
ENGINERY_TEST_COMPARISON(Equal, ==, std::cmp_equal)
ENGINERY_TEST_COMPARISON(NotEqual, !=, std::cmp_not_equal)
ENGINERY_TEST_COMPARISON(Less, <, std::cmp_less)
ENGINERY_TEST_COMPARISON(LessEqual, <=, std::cmp_less_equal)
ENGINERY_TEST_COMPARISON(Greater, >, std::cmp_greater)
ENGINERY_TEST_COMPARISON(GreaterEqual, >=, std::cmp_greater_equal)
#undef ENGINERY_TEST_COMPARISON

template <typename Comparison, typename A, typename B>
bool compare(const char* file, int line, const char* text, const A& a, const B& b) {
  if (Comparison::holds(a, b)) return true;
  fail(file, line,
       std::string(text) + ": " + show(a) + " " + Comparison::symbol + " " + show(b) +
           " does not hold");
  return false;
}

inline bool near(const char* file, int line, const char* text, double a, double b,
                 double tolerance) {
  if (std::fabs(a - b) <= tolerance) return true;  // false for NaN
  fail(file, line,
       std::string(text) + ": |" + show(a) + " - " + show(b) + "| = " + show(std::fabs(a - b)) +
           " > " + show(tolerance));
  return false;
}

template <typename Exception>
bool throws(const char* file, int line, const char* text, const std::string& message_part,
            const std::function<void()>& body) {
  try {
    body();
  } catch (const Exception& caught) {
    if constexpr (std::is_base_of_v<std::exception, Exception>) {
      const std::string message = caught.what();
      if (message.find(message_part) == std::string::npos) {
        fail(file, line,
             std::string(text) + ": message \"" + message + "\" lacks \"" + message_part + "\"");
        return false;
      }
    }
    return true;
  } catch (const std::exception& other) {
    fail(file, line, std::string(text) + ": threw another exception: " + other.what());
    return false;
  } catch (...) {
    fail(file, line, std::string(text) + ": threw another type");
    return false;
  }
  fail(file, line, std::string(text) + ": did not throw");
  return false;
}

inline void run_case(const Case& test) {
  try {
    test.run();
  } catch (const Abandoned&) {
  } catch (const std::exception& error) {
    fail(test.name, 0, std::string("uncaught exception: ") + error.what());
  } catch (...) {
    fail(test.name, 0, "uncaught exception of an unknown type");
  }
}

inline int run_all(const std::string& filter) {
  int num_passed = 0;
  int num_failed = 0;
  for (const Case& test : cases()) {
    if (std::string(test.name).find(filter) == std::string::npos) continue;
    failures_in_case() = 0;
    run_case(test);
    if (failures_in_case() == 0) {
      ++num_passed;
    } else {
      ++num_failed;
      std::cerr << "FAILED " << test.name << "\n";
    }
  }
  std::printf("%d passed, %d failed\n", num_passed, num_failed);
  return num_failed == 0 && num_passed > 0 ? 0 : 1;
}

}  // namespace enginery::test

#define TEST(name)                                                                                 \
  static void enginery_test_##name();                                                              \
  static const ::enginery::test::Registration enginery_registration_##name{#name,                  \
                                                                           &enginery_test_##name}; \
  static void enginery_test_##name()

#define CHECK(condition)                                                                  \
  do {                                                                                    \
    if (!(condition)) ::enginery::test::fail(__FILE__, __LINE__, #condition " is false"); \
  } while (false)
#define REQUIRE(condition)                                                \
  do {                                                                    \
    if (!(condition)) {                                                   \
      ::enginery::test::fail(__FILE__, __LINE__, #condition " is false"); \
      throw ::enginery::test::Abandoned{};                                \
    }                                                                     \
  } while (false)

#define ENGINERY_COMPARE(comparison, a, b)                                                       \
  ::enginery::test::compare<::enginery::test::comparison>(__FILE__, __LINE__, #a " vs " #b, (a), \
                                                          (b))
#define CHECK_EQ(a, b) static_cast<void>(ENGINERY_COMPARE(Equal, a, b))
#define CHECK_NE(a, b) static_cast<void>(ENGINERY_COMPARE(NotEqual, a, b))
#define CHECK_LT(a, b) static_cast<void>(ENGINERY_COMPARE(Less, a, b))
#define CHECK_LE(a, b) static_cast<void>(ENGINERY_COMPARE(LessEqual, a, b))
#define CHECK_GT(a, b) static_cast<void>(ENGINERY_COMPARE(Greater, a, b))
#define CHECK_GE(a, b) static_cast<void>(ENGINERY_COMPARE(GreaterEqual, a, b))
#define REQUIRE_EQ(a, b)                                                     \
  do {                                                                       \
    if (!ENGINERY_COMPARE(Equal, a, b)) throw ::enginery::test::Abandoned{}; \
  } while (false)

// |a - b| <= tolerance, in double; a NaN on either side fails.
#define CHECK_NEAR(a, b, tolerance) \
  static_cast<void>(::enginery::test::near(__FILE__, __LINE__, #a " vs " #b, (a), (b), (tolerance)))

// The expression throws `type`, and (with _WITH) its what() contains `part`.
#define CHECK_THROWS(expression, type) CHECK_THROWS_WITH(expression, type, "")
#define CHECK_THROWS_WITH(expression, type, part)                                           \
  static_cast<void>(::enginery::test::throws<type>(__FILE__, __LINE__, #expression, (part), \
                                                   [&] { static_cast<void>(expression); }))

int main(int argc, char** argv) { return ::enginery::test::run_all(argc > 1 ? argv[1] : ""); }
