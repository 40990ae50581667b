// SPDX-License-Identifier: Apache-2.0
//
// The C interface of engines, as a C program uses it.
#include <cstring>
#include <string>
#include <thread>

#include "check.h"
#include "enginery/enginery.h"
#include "support/temp_dir.h"
#include "support/tiny_engine.h"

namespace enginery::test {
namespace {

bool LastErrorHas(const std::string& part) {
  return std::string(enginery_last_error()).find(part) != std::string::npos;
}

class OpenedTiny {
 public:
  explicit OpenedTiny(uint32_t tp_size = 1) {
    for (uint32_t rank = 0; rank < tp_size; ++rank) {
      dir_.Write("rank" + std::to_string(rank) + ".engine", TinyEngine(tp_size, rank).Build());
    }
    REQUIRE_EQ(enginery_engine_open(dir_.path().c_str(), &engine_), ENGINERY_OK);
  }
  ~OpenedTiny() { enginery_engine_close(engine_); }
  enginery_engine* get() const { return engine_; }
  const TempDir& dir() const { return dir_; }

 private:
  TempDir dir_;
  enginery_engine* engine_ = nullptr;
};

TEST(versions) {
  CHECK_EQ(enginery_abi_version(), static_cast<uint32_t>(ENGINERY_ABI_VERSION));
  CHECK(std::strlen(enginery_version()) > 0);
}

TEST(a_failed_open_sets_status_and_message_and_no_handle) {
  enginery_engine* engine = nullptr;
  CHECK_EQ(enginery_engine_open("/nowhere/at/all", &engine), ENGINERY_NOT_FOUND);
  CHECK(engine == nullptr);
  CHECK(LastErrorHas("/nowhere/at/all"));
  CHECK_EQ(enginery_engine_open(nullptr, &engine), ENGINERY_INVALID_ARGUMENT);
  CHECK(LastErrorHas("path is NULL"));
  CHECK_EQ(enginery_engine_open("x", nullptr), ENGINERY_INVALID_ARGUMENT);
  enginery_engine_close(nullptr);
}

TEST(messages_are_per_thread) {
  enginery_engine* engine = nullptr;
  enginery_engine_open("/nowhere", &engine);
  std::string other;
  std::thread([&] { other = enginery_last_error(); }).join();
  CHECK_EQ(other, "");
  CHECK(LastErrorHas("/nowhere"));
}

TEST(info_is_that_of_the_engine) {
  const OpenedTiny tiny(2);
  enginery_engine_info info;
  info.abi_size = sizeof info;
  REQUIRE_EQ(enginery_engine_get_info(tiny.get(), &info), ENGINERY_OK);
  CHECK_EQ(std::string(info.target), "cpu");
  CHECK_EQ(std::string(info.variant), "x86-64");
  CHECK_EQ(std::string(info.architecture), "LlamaForCausalLM");
  CHECK_EQ(info.tp_size, 2);
  CHECK_EQ(info.vocab_size, 11);
  CHECK_EQ(info.max_seq_len, 32);
  CHECK_EQ(info.pad_token_id, -1);
  REQUIRE_EQ(info.num_eos_token_ids, 1u);
  CHECK_EQ(info.eos_token_ids[0], 1);
  CHECK_EQ(info.weight_bytes, 2u * 7596);
  CHECK_EQ(info.kv_bytes_per_token, 2u * 96);
}

TEST(info_of_an_older_and_a_newer_caller) {
  const OpenedTiny tiny;
  enginery_engine_info info;
  std::memset(&info, 0x55, sizeof info);
  info.abi_size = offsetof(enginery_engine_info, variant);  // knows target and sku
  REQUIRE_EQ(enginery_engine_get_info(tiny.get(), &info), ENGINERY_OK);
  CHECK_EQ(info.abi_size, offsetof(enginery_engine_info, variant));
  CHECK_EQ(std::string(info.sku), "cpu");
  CHECK_EQ(info.vocab_size, 0x5555555555555555);

  struct Newer {
    enginery_engine_info info;
    uint64_t added;
  } newer;
  newer.info.abi_size = sizeof newer;
  newer.added = 7;
  REQUIRE_EQ(enginery_engine_get_info(tiny.get(), &newer.info), ENGINERY_OK);
  CHECK_EQ(newer.info.vocab_size, 11);
  CHECK_EQ(newer.added, 0u);

  for (const uint64_t abi_size : {uint64_t{0}, uint64_t{7}, uint64_t{1} << 40}) {
    info.abi_size = abi_size;
    CHECK_EQ(enginery_engine_get_info(tiny.get(), &info), ENGINERY_INVALID_ARGUMENT);
    CHECK(LastErrorHas("enginery_engine_info.abi_size is " + std::to_string(abi_size)));
  }
}

TEST(a_description_is_given_per_rank) {
  const OpenedTiny tiny(2);
  char* json = nullptr;
  REQUIRE_EQ(enginery_engine_describe_json(tiny.get(), 1, &json), ENGINERY_OK);
  CHECK(std::string(json).find("\"tp_rank\":1") != std::string::npos);
  enginery_string_free(json);
  enginery_string_free(nullptr);
  for (const int64_t rank : {int64_t{-1}, int64_t{2}, int64_t{1} << 40}) {
    CHECK_EQ(enginery_engine_describe_json(tiny.get(), rank, &json), ENGINERY_INVALID_ARGUMENT);
    CHECK(LastErrorHas("accepted: 0..1"));
  }
}

TEST(sections_are_given_as_mapped) {
  const OpenedTiny tiny;
  const void* data = nullptr;
  uint64_t bytes = 0;
  REQUIRE_EQ(enginery_engine_section(tiny.get(), 0, "program", &data, &bytes), ENGINERY_OK);
  CHECK(bytes > 4 && std::memcmp(data, "PRGM", 4) == 0);
  CHECK_EQ(enginery_engine_section(tiny.get(), 0, "tactics", &data, &bytes), ENGINERY_NOT_FOUND);
  CHECK(LastErrorHas("it has program, token_bytes, weights"));
}

TEST(verify_reports_progress_and_damage) {
  const OpenedTiny tiny;
  struct Progress {
    uint64_t done = 0, total = 0;
  } progress;
  const auto record = [](void* user, uint64_t done, uint64_t total) {
    static_cast<Progress*>(user)->done = done;
    static_cast<Progress*>(user)->total = total;
  };
  CHECK_EQ(enginery_engine_verify(tiny.get(), record, &progress), ENGINERY_OK);
  CHECK_GT(progress.total, 0u);
  CHECK_EQ(progress.done, progress.total);

  AlignedBytes damaged = TinyEngine().Build();
  damaged.back() ^= std::byte{1};
  const TempDir dir;
  dir.Write("rank0.engine", damaged);
  enginery_engine* engine = nullptr;
  REQUIRE_EQ(enginery_engine_open(dir.path().c_str(), &engine), ENGINERY_OK);
  CHECK_EQ(enginery_engine_verify(engine, nullptr, nullptr), ENGINERY_CHECKSUM_MISMATCH);
  CHECK(LastErrorHas("rank0.engine: the bytes of \"weights\""));
  enginery_engine_close(engine);
}

TEST(every_status_has_its_name) {
  CHECK_EQ(std::string(enginery_status_name(ENGINERY_OK)), "OK");
  CHECK_EQ(std::string(enginery_status_name(ENGINERY_QUEUE_FULL)), "QUEUE_FULL");
  CHECK_EQ(std::string(enginery_status_name(ENGINERY_INTERNAL)), "INTERNAL");
  CHECK_EQ(std::string(enginery_status_name(12345)), "UNKNOWN");
}

}  // namespace
}  // namespace enginery::test
