// SPDX-License-Identifier: Apache-2.0
//
// tests/golden/tiny.engine was written once and is committed: it must go on being read as it was,
// and a writer of the format must go on writing it. The Python writer is held to the same file.
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

#include "check.h"
#include "engine/describe.h"
#include "engine/engine.h"
#include "engine/engine_file.h"
#include "support/tiny_engine.h"

namespace enginery::test {
namespace {

std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot open " + path);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

TEST(the_golden_engine_is_described_as_before) {
  const auto engine = Engine::Open("tests/golden/tiny.engine");
  CHECK_EQ(DescribeJson(engine->rank(0)) + "\n", ReadText("tests/golden/tiny.json"));
  engine->rank(0).Verify([](uint64_t) {});
}

TEST(the_golden_engine_is_written_as_before) {
  const AlignedBytes built = TinyEngine().Build();
  const std::string golden = ReadText("tests/golden/tiny.engine");
  REQUIRE_EQ(built.size(), golden.size());
  CHECK(std::memcmp(built.data(), golden.data(), golden.size()) == 0);
}

}  // namespace
}  // namespace enginery::test
