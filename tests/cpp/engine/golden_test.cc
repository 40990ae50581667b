// SPDX-License-Identifier: Apache-2.0
//
// tests/golden/*.engine were written once and are committed: they must go on being read as they
// were, and a writer of the format must go on writing them. The Python writer is held to the same
// files.
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"
#include "engine/describe.h"
#include "engine/engine.h"
#include "engine/engine_file.h"
#include "support/tiny_engine.h"
#include "support/tiny_tensorrt_engine.h"

namespace enginery::test {
namespace {

std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot open " + path);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

void CheckDescribed(const std::string& name) {
  const auto engine = Engine::Open("tests/golden/" + name + ".engine");
  CHECK_EQ(DescribeJson(engine->rank(0)) + "\n", ReadText("tests/golden/" + name + ".json"));
  engine->rank(0).Verify([](uint64_t) {});
}

void CheckWritten(const std::string& name, const AlignedBytes& built) {
  const std::string golden = ReadText("tests/golden/" + name + ".engine");
  REQUIRE_EQ(built.size(), golden.size());
  CHECK(std::memcmp(built.data(), golden.data(), golden.size()) == 0);
}

TEST(the_golden_engines_are_described_as_before) {
  CheckDescribed("tiny");
  CheckDescribed("tiny_tensorrt");
}

TEST(the_golden_engines_are_written_as_before) {
  CheckWritten("tiny", TinyEngine().Build());
  CheckWritten("tiny_tensorrt", TinyTensorrtEngine().Build());
}

// By the builder: INT4 weights with the scales of their groups, down_proj in two of them.
TEST(an_engine_with_int4_weights_is_read) {
  const auto engine = Engine::Open("tests/golden/engine/qwen2_w4a8_dynamic.engine");
  engine->rank(0).Verify([](uint64_t) {});
  CHECK_EQ(engine->config().qformat, "w4a8_dynamic");
  const Program& program = engine->rank(0).program();
  const Step* down = nullptr;
  for (const Step& step : program.steps) {
    if (step.op == "linear" && step.version == 2) down = &step;
  }
  REQUIRE(down != nullptr);
  REQUIRE_EQ(down->inputs.size(), 6u);
  const Tensor& weight = program.tensors[down->inputs[1].index];
  CHECK_EQ(weight.dtype, DType::kI4);
  CHECK_EQ(weight.layout, Layout::kN16K8);
  CHECK(weight.shape == (std::vector<uint64_t>{24, 140}));
  CHECK_EQ(weight.bytes, 2u * 18 * 16 * 4);
  const Tensor& group_scales = program.tensors[down->inputs[5].index];
  CHECK_EQ(group_scales.dtype, DType::kI8);
  CHECK_EQ(group_scales.layout, Layout::kN16K1);
  CHECK(group_scales.shape == (std::vector<uint64_t>{24, 2}));
  CHECK_EQ(group_scales.bytes, 2u * 2 * 16);

  // The column sums, again from the codes where the format says that they stand.
  const Tensor& sums = program.tensors[down->inputs[4].index];
  for (uint64_t n = 0; n < 24; ++n) {
    int32_t sum = 0;
    for (uint64_t k = 0; k < 140; ++k) {
      const uint64_t at = ((n / 16 * 18 + k / 8) * 16 + n % 16) * 4 + k % 4;
      const auto byte = std::to_integer<int32_t>(weight.data[at]);
      const int32_t code = (k % 8 < 4 ? byte & 15 : byte >> 4) - 8;
      const uint64_t group = (n / 16 * 2 + k / 128) * 16 + n % 16;
      sum += code * static_cast<int8_t>(group_scales.data[group]);
    }
    int32_t stored = 0;
    std::memcpy(&stored, sums.data + n * 4, 4);
    CHECK_EQ(stored, sum);
  }
}

// The fields that no other engine has, read back one by one.
TEST(an_engine_for_tensorrt_is_read) {
  const auto engine = Engine::Open("tests/golden/tiny_tensorrt.engine");
  CHECK_EQ(engine->target(), "tensorrt");
  CHECK(engine->skus() == std::vector<std::string>({"a100", "h200"}));
  CHECK_EQ(engine->config().dtype, "float16");
  CHECK_EQ(engine->config().qformat, "fp8");
  CHECK_EQ(engine->config().kv_cache_dtype, "fp8");
  CHECK_EQ(engine->kv_bytes_per_token(), 2u * 1 * 8);
  const auto find = [&](std::string_view name) {
    for (const Tensor& tensor : engine->program(0).tensors) {
      if (tensor.name == name) return tensor;
    }
    throw std::runtime_error("no such tensor");
  };
  CHECK(find("layers.0.qkv").dtype == DType::kF8E4M3);
  CHECK_EQ(find("layers.0.qkv").bytes, 32u * 16);
  CHECK(find("layers.0.down").dtype == DType::kI4);
  CHECK_EQ(find("layers.0.down").bytes, 16u * 24 / 2);
  CHECK(engine->program(0).values[2].dtype == DType::kF16);
}

}  // namespace
}  // namespace enginery::test
