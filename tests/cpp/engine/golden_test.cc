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
