// SPDX-License-Identifier: Apache-2.0
//
// The executor as the runtime has it: made of an engine file, called through the C table.
#include "exec/cpu_executor.h"

#include <cmath>
#include <functional>

#include "base/error.h"
#include "check.h"
#include "support/batch_builder.h"
#include "support/packing.h"
#include "support/temp_dir.h"
#include "support/tiny_engine.h"

namespace enginery::test {
namespace {

constexpr int64_t kTokensPerBlock = 16;

std::shared_ptr<const Engine> Open(TinyEngine& tiny) {
  const TempDir dir;  // the file may go: the engine has mapped it
  for (auto& [name, value] : tiny.builder().attributes) {
    if (name == "tokens_per_block") value = kTokensPerBlock;
  }
  return Engine::Open(dir.Write("rank0.engine", tiny.Build()));
}

std::shared_ptr<const Engine> OpenTiny() {
  TinyEngine tiny;
  return Open(tiny);
}

// The table with what a caller keeps beside it.
class Caller {
 public:
  explicit Caller(const CpuExecutorOptions& options)
      : table_(MakeCpuExecutor(OpenTiny(), options, &isa_name_)) {
    limits_.abi_size = sizeof limits_;
    limits_.max_batch_size = 2;
    limits_.max_num_tokens = 16;
    limits_.max_logit_rows = 16;
    limits_.max_seq_len = 32;
    limits_.tokens_per_block = kTokensPerBlock;
    info_.abi_size = sizeof info_;
    output_.abi_size = sizeof output_;
  }
  ~Caller() { table_.destroy(table_.ctx); }
  enginery_status Init() { return table_.init(table_.ctx, &limits_, 1 << 20, &info_); }
  enginery_status Execute(const enginery_batch* batch) { return table_.execute(table_.ctx, batch); }
  enginery_status Collect() { return table_.collect(table_.ctx, &output_); }
  std::string last_error() const { return table_.last_error(table_.ctx); }

  std::string isa_name_;
  enginery_limits limits_{};
  enginery_executor_info info_{};
  enginery_step_output output_{};

 private:
  enginery_executor table_;
};

AlignedBytes Prompt() {
  return BatchBuilder({Chunk{{3, 9, 4}, 0, 3, {1}}}, kTokensPerBlock).Build();
}

TEST(a_step_runs_through_the_table) {
  const AlignedBytes batch = Prompt();
  for (const Kernels* kernels : AvailableKernels()) {
    Caller caller({.num_threads = 2, .isa = kernels->name});
    CHECK_EQ(caller.isa_name_, kernels->name);
    REQUIRE_EQ(caller.Init(), ENGINERY_OK);
    CHECK_EQ(caller.info_.vocab_size, static_cast<int64_t>(TinyEngine::kVocab));
    REQUIRE_EQ(caller.Execute(AsBatch(batch)), ENGINERY_OK);
    REQUIRE_EQ(caller.Collect(), ENGINERY_OK);
    CHECK_EQ(caller.last_error(), "");
    for (uint64_t i = 0; i < 3 * TinyEngine::kVocab; ++i) {
      CHECK(std::isfinite(caller.output_.logits[i]));
    }
  }
}

TEST(failures_are_codes_and_messages) {
  const AlignedBytes batch = Prompt();
  Caller caller({.num_threads = 1, .isa = "portable"});
  CHECK_EQ(caller.Execute(AsBatch(batch)), ENGINERY_INVALID_ARGUMENT);
  CHECK(caller.last_error().find("before init") != std::string::npos);
  caller.limits_.tokens_per_block = 32;
  CHECK_EQ(caller.Init(), ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(caller.last_error(), "limits.tokens_per_block is 32; accepted: 16..16");
  caller.limits_.tokens_per_block = kTokensPerBlock;
  caller.limits_.abi_size = 8;
  CHECK_EQ(caller.Init(), ENGINERY_INVALID_ARGUMENT);
  CHECK(caller.last_error().find("limits") != std::string::npos);
  caller.limits_.abi_size = sizeof caller.limits_;
  CHECK_EQ(caller.Init(), ENGINERY_OK);
  CHECK_EQ(caller.Collect(), ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(caller.Execute(nullptr), ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(caller.Execute(AsBatch(batch)), ENGINERY_OK);
  caller.output_.abi_size = 0;
  CHECK_EQ(caller.Collect(), ENGINERY_INVALID_ARGUMENT);
}

enginery_status Refusal(const std::function<void(TinyEngine&)>& change,
                        const CpuExecutorOptions& options, const std::string& part) {
  TinyEngine tiny;
  change(tiny);
  try {
    const enginery_executor table = MakeCpuExecutor(Open(tiny), options, nullptr);
    table.destroy(table.ctx);
  } catch (const Error& error) {
    if (std::string(error.what()).find(part) == std::string::npos) {
      fail(__FILE__, __LINE__, std::string(error.what()) + " lacks " + part);
    }
    return error.status();
  }
  return ENGINERY_OK;
}

TEST(engines_and_options_that_cannot_run_are_refused) {
  const auto keep = [](TinyEngine&) {};
  CHECK_EQ(Refusal(keep, {}, ""), ENGINERY_OK);
  CHECK_EQ(Refusal(keep, {.isa = "sse9"}, "isa is \"sse9\"; accepted on this machine: auto"),
           ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(Refusal(keep, {.num_threads = -1}, "num_threads is -1"), ENGINERY_INVALID_ARGUMENT);
  CHECK_EQ(Refusal([](TinyEngine& tiny) { tiny.builder().target = "tensorrt"; }, {},
                   "the engine is for target \"tensorrt\""),
           ENGINERY_WRONG_TARGET);
  const auto for_two_skus = [](TinyEngine& tiny) {
    tiny.builder().target = "tensorrt";
    tiny.builder().sku = "several";
    tiny.builder().extra_sections = {{"segments", AlignedBytes(3), 64, 0},
                                     {"sku.a100", AlignedBytes(4), 64, 0},
                                     {"sku.h200", AlignedBytes(5), 64, 0}};
  };
  CHECK_EQ(Refusal(for_two_skus, {}, "SKU a100, h200; the cpu executor runs"),
           ENGINERY_WRONG_TARGET);
  CHECK_EQ(Refusal(for_two_skus, {}, "with --emulate"), ENGINERY_WRONG_TARGET);
  CHECK_EQ(Refusal([](TinyEngine& tiny) { tiny.builder().AddStep("softcap", {}, {}); }, {},
                   "no op \"softcap\""),
           ENGINERY_UNSUPPORTED_OP);
}

}  // namespace
}  // namespace enginery::test
