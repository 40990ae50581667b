// SPDX-License-Identifier: Apache-2.0
#include "engine/program.h"

#include <cstdint>

#include "base/error.h"
#include "check.h"
#include "engine/tensor_reader.h"

namespace enginery::test {
namespace {

TEST(attributes_are_looked_up_by_name_and_type) {
  const Attributes attributes = {{"i", int64_t{5}}, {"f", 0.5}, {"s", "text"}};
  CHECK_EQ(GetInt(attributes, "i", 5, 5, "op"), 5);
  CHECK_EQ(GetFloat(attributes, "f", "op"), 0.5);
  CHECK_EQ(GetString(attributes, "s", "op"), "text");
  CHECK_THROWS_WITH(GetInt(attributes, "i", 6, 9, "op"), Error,
                    "op: attribute \"i\" is 5; accepted: 6..9");
  CHECK_THROWS_WITH(GetInt(attributes, "i", -4, 4, "op"), Error, "accepted: -4..4");
  CHECK_THROWS_WITH(GetInt(attributes, "f", 0, 1, "op"), Error, "has another type; accepted: i64");
  CHECK_THROWS_WITH(GetFloat(attributes, "i", "op"), Error, "has another type; accepted: f64");
  CHECK_THROWS_WITH(GetString(attributes, "x", "op"), Error, "op: attribute \"x\" is missing");
}

TEST(tensor_bytes_count_the_padding) {
  using Shape = std::vector<uint64_t>;
  CHECK(TensorBytes(DType::kF32, Layout::kRows, Shape{3, 5, 7, 2}) == 840u);
  CHECK(TensorBytes(DType::kI8, Layout::kRows, Shape{19}) == 19u);
  CHECK(TensorBytes(DType::kF32, Layout::kN16K1, Shape{17, 5}) == 2u * 5 * 16 * 4);
  CHECK(TensorBytes(DType::kBF16, Layout::kN16K2, Shape{16, 5}) == 3u * 16 * 2 * 2);
  CHECK(TensorBytes(DType::kI8, Layout::kN16K4, Shape{1, 5}) == 2u * 16 * 4);
  CHECK(TensorBytes(DType::kF8E4M3, Layout::kRows, Shape{3, 5}) == 15u);
  CHECK(TensorBytes(DType::kI4, Layout::kRows, Shape{3, 6}) == 9u);
  CHECK(TensorBytes(DType::kI4, Layout::kRows, Shape{10}) == 5u);
  CHECK(TensorBytes(DType::kI4, Layout::kRows, Shape{2, 3, 4}) == 12u);
  CHECK(TensorBytes(DType::kI4, Layout::kN16K8, Shape{16, 8}) == 16u * 4);
  CHECK(TensorBytes(DType::kI4, Layout::kN16K8, Shape{17, 9}) == 2u * 2 * 16 * 4);
  CHECK(TensorBytes(DType::kI8, Layout::kN16K1, Shape{17, 3}) == 2u * 3 * 16);
  const uint64_t huge = ~uint64_t{0};
  CHECK(TensorBytes(DType::kI4, Layout::kRows, Shape{2, huge - 1}) == huge - 1);
  CHECK(!TensorBytes(DType::kI4, Layout::kRows, Shape{3, huge - 1}).has_value());
  CHECK(TensorBytes(DType::kI8, Layout::kRows, Shape{huge}) == huge);
  CHECK(!TensorBytes(DType::kF16, Layout::kRows, Shape{huge}).has_value());
  CHECK(!TensorBytes(DType::kI8, Layout::kRows, Shape{uint64_t{1} << 32, uint64_t{1} << 32})
             .has_value());
  CHECK(!TensorBytes(DType::kI8, Layout::kN16K4, Shape{huge, 1}).has_value());
  CHECK(!TensorBytes(DType::kI8, Layout::kN16K4, Shape{1, huge}).has_value());
  CHECK(TensorBytes(DType::kI4, Layout::kN16K8, Shape{16, uint64_t{1} << 60}) == uint64_t{1} << 63);
  CHECK(!TensorBytes(DType::kI4, Layout::kN16K8, Shape{17, uint64_t{1} << 60}).has_value());
  CHECK(!TensorBytes(DType::kI4, Layout::kN16K8, Shape{1, huge}).has_value());
  CHECK(!TensorBytes(DType::kI4, Layout::kN16K8, Shape{huge, 1}).has_value());
}

}  // namespace
}  // namespace enginery::test
