// SPDX-License-Identifier: Apache-2.0
//
// Writes the files that tests compare with: tests/golden/tiny*.* and the fuzz corpus. Run it from
// the repository root when the format changes on purpose, and look at the difference.
#include <filesystem>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/describe.h"
#include "engine/engine_file.h"
#include "support/tiny_engine.h"
#include "support/tiny_tensorrt_engine.h"

namespace {

using enginery::test::AlignedBytes;
using enginery::test::EngineBuilder;
using enginery::test::TinyEngine;
using enginery::test::TinyTensorrtEngine;

void Write(const std::filesystem::path& path, const void* data, size_t bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream out(path, std::ios::binary);
  out.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
  std::cout << path.string() << ": " << bytes << " bytes\n";
}

void WriteCorpus(const std::string& name, const AlignedBytes& bytes) {
  Write("tests/cpp/fuzz/corpus/engine_file_fuzz/" + name, bytes.data(), bytes.size());
}

void WriteGolden(const std::string& name, const AlignedBytes& bytes) {
  Write("tests/golden/" + name + ".engine", bytes.data(), bytes.size());
  const std::string json =
      enginery::DescribeJson(*enginery::EngineFile::FromMemory(bytes, name)) + "\n";
  Write("tests/golden/" + name + ".json", json.data(), json.size());
}

// Small files first of all: the fewer bytes, the more mutations meet one that matters.
AlignedBytes Bare() {
  EngineBuilder builder;
  builder.attributes = TinyEngine().builder().attributes;
  for (int i = 0; i < 11; ++i) builder.AddToken(i % 2 == 0 ? "t" : "", i % 2 == 0 ? 1 : 2);
  return builder.Build();
}

// One of each record.
AlignedBytes Records() {
  EngineBuilder builder;
  builder.attributes = TinyEngine().builder().attributes;
  for (int i = 0; i < 11; ++i) builder.AddToken("t");
  const auto x = builder.AddValue("x", "i8", "tokens", 3);
  const auto y = builder.AddValue("logits", "f32", "logits", 5);
  const auto w = builder.AddTensor("w", "i8", "n16k4", {5, 3}, AlignedBytes(64));
  const auto c = builder.AddTensor("c", "f16", "rows", {1, 2, 1, 3}, AlignedBytes(12));
  builder.AddTensor("q", "i4", "n16k8", {5, 9}, AlignedBytes(128));
  builder.AddTensor("m", "i8", "n16k1", {5, 2}, AlignedBytes(32));
  builder.AddStep("linear", {x, w, c, EngineBuilder::kAbsent}, {y},
                  {{"f", 0.5},
                   {"floats", std::vector<double>{1, 2}},
                   {"i", int64_t{-1}},
                   {"ints", std::vector<int64_t>{}},
                   {"s", "\xc3\xa9"}});
  builder.AddStep("x", {}, {});
  builder.extra_sections = {{"tactics", AlignedBytes(7), 128, 1}, {"empty", {}, 64, 0}};
  return builder.Build();
}

}  // namespace

int main() {
  const AlignedBytes tiny = TinyEngine().Build();
  const AlignedBytes tiny_tensorrt = TinyTensorrtEngine().Build();
  WriteGolden("tiny", tiny);
  WriteGolden("tiny_tensorrt", tiny_tensorrt);
  WriteCorpus("tiny", tiny);
  WriteCorpus("tiny-tensorrt", tiny_tensorrt);
  WriteCorpus("tiny-tp2-rank1", TinyEngine(2, 1).Build());
  WriteCorpus("bare", Bare());
  WriteCorpus("records", Records());
}
