// SPDX-License-Identifier: Apache-2.0
//
// Engine directories: which rank files belong together.
#include "engine/engine.h"

#include <functional>

#include "check.h"
#include "engine/engine_file.h"
#include "support/temp_dir.h"
#include "support/tiny_engine.h"

namespace enginery::test {
namespace {

void CheckOpenFails(const std::string& path, enginery_status status, const std::string& part) {
  try {
    Engine::Open(path);
    fail(__FILE__, __LINE__, "opened; expected: " + part);
  } catch (const Error& error) {
    CHECK_EQ(error.status(), status);
    if (std::string(error.what()).find(part) == std::string::npos) {
      fail(__FILE__, __LINE__, std::string(error.what()) + " lacks \"" + part + "\"");
    }
  }
}

TEST(a_directory_of_one_rank_is_opened) {
  const TempDir dir;
  const AlignedBytes bytes = TinyEngine().Build();
  const std::string file = dir.Write("rank0.engine", bytes);
  for (const std::string& path : {dir.path(), dir.path() + "/", file}) {
    const auto engine = Engine::Open(path);
    CHECK_EQ(engine->tp_size(), 1);
    CHECK_EQ(engine->target(), "cpu");
    CHECK_EQ(engine->config().vocab_size, 11);
    CHECK_EQ(engine->token_bytes().bytes(9), "the");
    CHECK_EQ(engine->program(0).steps.size(), 13u);
    CHECK_EQ(engine->weight_bytes(), 7596u);
    CHECK_EQ(engine->kv_bytes_per_token(), 96u);
    CHECK(engine->skus() == std::vector<std::string>{"cpu"});
  }
}

TEST(every_rank_is_opened) {
  const TempDir dir;
  for (uint32_t rank = 0; rank < 3; ++rank) {
    dir.Write("rank" + std::to_string(rank) + ".engine", TinyEngine(3, rank).Build());
  }
  const auto engine = Engine::Open(dir.path());
  CHECK_EQ(engine->tp_size(), 3);
  for (int64_t rank = 0; rank < 3; ++rank) CHECK_EQ(engine->rank(rank).header().tp_rank, rank);
  CHECK_EQ(engine->weight_bytes(), 3u * 7596);
  CHECK_EQ(engine->kv_bytes_per_token(), 3u * 96);
}

TEST(what_is_absent_is_named) {
  const TempDir dir;
  CheckOpenFails(dir.file("none"), ENGINERY_NOT_FOUND, dir.file("none"));
  CheckOpenFails(dir.path(), ENGINERY_NOT_FOUND, dir.file("rank0.engine"));
  dir.Write("rank0.engine", TinyEngine(2, 0).Build());
  CheckOpenFails(dir.path(), ENGINERY_NOT_FOUND, dir.file("rank1.engine"));
  CheckOpenFails(dir.path(), ENGINERY_NOT_FOUND, "rank0.engine says tp_size 2");
}

TEST(one_rank_of_several_is_refused) {
  const TempDir dir;
  const std::string file = dir.Write("rank0.engine", TinyEngine(2, 0).Build());
  dir.Write("rank1.engine", TinyEngine(2, 1).Build());
  CheckOpenFails(file, ENGINERY_RANK_MISMATCH, "tp_size is 2, but this is 1 rank file(s)");
}

// Rank 1 of another engine than rank 0, in one respect each.
TEST(ranks_of_different_engines_are_refused) {
  struct Row {
    std::function<void(EngineBuilder&)> change;
    const char* message_part;
  };
  const std::vector<Row> rows = {
      {[](EngineBuilder& b) { b.tp_rank = 0; },
       "tp_rank is 0 of tp_size 2; accepted here: tp_rank 1"},
      {[](EngineBuilder& b) { b.tp_size = 4; }, "tp_rank is 1 of tp_size 4"},
      {[](EngineBuilder& b) { b.target = "tensorrt"; }, "target is \"tensorrt\""},
      {[](EngineBuilder& b) { b.sku = "h200"; }, "sku is \"h200\""},
      {[](EngineBuilder& b) { b.variant = "arm64"; }, "variant is \"arm64\""},
      {[](EngineBuilder& b) { b.builder_version = "0.0.9"; }, "builder_version is \"0.0.9\""},
      {[](EngineBuilder& b) { b.AddToken("more"); }, "token_bytes sha256"},
      {[](EngineBuilder& b) { b.attributes[1].second = int64_t{5}; }, "attributes differ"},
      {[](EngineBuilder& b) { b.AddStep("all_reduce", {}, {}); }, "steps are other operations"},
  };
  for (const Row& row : rows) {
    const TempDir dir;
    dir.Write("rank0.engine", TinyEngine(2, 0).Build());
    TinyEngine other(2, 1);
    row.change(other.builder());
    dir.Write("rank1.engine", other.Build());
    CheckOpenFails(dir.path(), ENGINERY_RANK_MISMATCH, row.message_part);
    CheckOpenFails(dir.path(), ENGINERY_RANK_MISMATCH, dir.file("rank1.engine"));
  }
}

TEST(a_refused_rank_is_named_with_the_fix) {
  const TempDir dir;
  dir.Write("rank0.engine", TinyEngine(2, 0).Build());
  dir.Write("rank1.engine", AlignedBytes(3000, std::byte{'x'}));
  CheckOpenFails(dir.path(), ENGINERY_BAD_MAGIC, dir.file("rank1.engine"));
  CheckOpenFails(dir.path(), ENGINERY_BAD_MAGIC, "open a directory that build-engine wrote");
}

TEST(an_engine_has_ranks) {
  CHECK_THROWS_WITH(Engine::FromFiles({}), Error, "at least one rank file");
}

TEST(an_engine_outlives_its_files) {
  std::shared_ptr<const Engine> engine;
  {
    const TempDir dir;
    dir.Write("rank0.engine", TinyEngine().Build());
    engine = Engine::Open(dir.path());
  }
  engine->rank(0).Verify([](uint64_t) {});
}

}  // namespace
}  // namespace enginery::test
