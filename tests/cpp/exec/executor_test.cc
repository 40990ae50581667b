// SPDX-License-Identifier: Apache-2.0
#include "exec/executor.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>

#include "base/error.h"
#include "check.h"
#include "support/batch_builder.h"
#include "support/test_model.h"

namespace enginery::test {
namespace {

constexpr int64_t kMaxTokens = 160;
constexpr int64_t kNumBlocks = 40;

// An executor over a model, with the calls of a test's step.
class Harness {
 public:
  Harness(TestModel& model, const Kernels& kernels, int num_threads, int64_t tokens_per_block = 16)
      : executor_(model.programs(), nullptr, kernels, num_threads),
        tokens_per_block_(tokens_per_block) {
    // How large a block is, from a budget that must do.
    Init(uint64_t{1} << 30);
    Init(static_cast<uint64_t>(kNumBlocks) * info_.block_bytes + info_.block_bytes / 2);
  }
  void Init(uint64_t kv_cache_bytes) {
    enginery_limits limits{};
    limits.abi_size = sizeof limits;
    limits.max_batch_size = 8;
    limits.max_num_tokens = kMaxTokens;
    limits.max_logit_rows = kMaxTokens;
    limits.max_seq_len = kMaxTokens;
    limits.tokens_per_block = tokens_per_block_;
    info_.abi_size = sizeof info_;
    executor_.Init(limits, kv_cache_bytes, &info_);
  }
  // Logits of every token, in the order of the chunks.
  std::vector<float> Step(const std::vector<Chunk>& chunks) {
    return Step(BatchBuilder(chunks, tokens_per_block_));
  }
  std::vector<float> Step(const BatchBuilder& builder) {
    const AlignedBytes batch = builder.Build();
    executor_.Execute(AsBatch(batch));
    enginery_step_output output{};
    output.abi_size = sizeof output;
    executor_.Collect(&output);
    token_ids_.clear();
    if (output.token_ids != nullptr) {
      token_ids_.assign(output.token_ids, output.token_ids + builder.samples.size());
    }
    return {output.logits, output.logits + builder.logit_rows.size() * TestModel::kVocab};
  }
  // Those that the last step drew; empty when it drew none.
  const std::vector<int32_t>& token_ids() const { return token_ids_; }
  Executor& executor() { return executor_; }
  const enginery_executor_info& info() const { return info_; }

 private:
  Executor executor_;
  int64_t tokens_per_block_;
  enginery_executor_info info_{};
  std::vector<int32_t> token_ids_;
};

std::vector<int32_t> RandomTokens(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(random() % TestModel::kVocab));
  }
  return tokens;
}

// The logits of a whole sequence in one step of its own.
std::vector<float> Alone(Harness& harness, const std::vector<int32_t>& tokens) {
  Chunk chunk{tokens, 0, static_cast<int64_t>(tokens.size()), {}};
  for (int32_t b = 0; b < 10; ++b) chunk.block_table.push_back(b);
  return harness.Step({chunk});
}

// Runs the sequences to their ends in steps that take a random number of tokens of random ones, in
// random blocks.
std::vector<std::vector<float>> Scheduled(Harness& harness,
                                          const std::vector<std::vector<int32_t>>& sequences,
                                          int64_t tokens_per_block, std::mt19937& random) {
  std::vector<int32_t> blocks;
  for (int32_t b = 0; b < kNumBlocks; ++b) blocks.push_back(b);
  std::ranges::shuffle(blocks, random);
  std::vector<Chunk> state;
  for (const auto& tokens : sequences) {
    Chunk chunk{tokens, 0, 0, {}};
    const auto length = static_cast<int64_t>(tokens.size());
    for (int64_t b = 0; b * tokens_per_block < length; ++b) {
      chunk.block_table.push_back(blocks.back());
      blocks.pop_back();
    }
    state.push_back(chunk);
  }
  std::vector<std::vector<float>> logits(sequences.size());
  while (true) {
    std::vector<Chunk> step;
    std::vector<size_t> owners;
    int64_t budget = kMaxTokens;
    bool is_done = true;
    for (size_t s = 0; s < state.size(); ++s) {
      const int64_t left = static_cast<int64_t>(state[s].tokens.size()) - state[s].begin;
      if (left == 0) continue;
      is_done = false;
      if (random() % 4 == 0) continue;
      const int64_t most = std::min({left, budget, random() % 2 ? int64_t{1} : int64_t{40}});
      if (most == 0) continue;
      state[s].end =
          state[s].begin + 1 + static_cast<int64_t>(random() % static_cast<uint32_t>(most));
      budget -= state[s].end - state[s].begin;
      step.push_back(state[s]);
      owners.push_back(s);
    }
    if (is_done) return logits;
    if (step.empty()) continue;
    const std::vector<float> rows = harness.Step(step);
    const float* row = rows.data();
    for (const size_t s : owners) {
      const int64_t count = (state[s].end - state[s].begin) * TestModel::kVocab;
      logits[s].insert(logits[s].end(), row, row + count);
      row += count;
      state[s].begin = state[s].end;
    }
  }
}

const std::map<std::string, TestModelOptions>& Schemes() {
  static const std::map<std::string, TestModelOptions> schemes = {
      {"f32", {}},
      {"f32, window, qk norm", {.qk_norm = true, .sliding_window = 21}},
      {"bf16", {.x = DType::kBF16, .weight = DType::kBF16, .kv = DType::kBF16}},
      {"int8_wo f32", {.weight = DType::kI8}},
      {"int8_wo bf16",
       {.x = DType::kBF16, .weight = DType::kI8, .kv = DType::kBF16, .tokens_per_block = 32}},
      {"int8_dynamic", {.x = DType::kI8, .weight = DType::kI8, .kv = DType::kBF16}},
      {"f32, scaled columns, group sums", {.scales_columns = true, .group = 7}},
      {"bf16, scaled columns, group sums",
       {.x = DType::kBF16, .weight = DType::kBF16, .scales_columns = true, .group = 32}},
      {"int8_dynamic, scaled columns",
       {.x = DType::kI8, .weight = DType::kI8, .scales_columns = true}},
      {"tp 2", {.tp_size = 2}},
      {"tp 2 int8_dynamic", {.x = DType::kI8, .weight = DType::kI8, .tp_size = 2}},
      {"int8_dynamic, gathered early",
       {.x = DType::kI8, .weight = DType::kI8, .kv = DType::kBF16, .gathers_early = true}},
  };
  return schemes;
}

// The promise of batch invariance, token by token and bit by bit.
TEST(logits_do_not_depend_on_batch_chunks_blocks_or_threads) {
  std::mt19937 random(7);
  for (const auto& [name, options] : Schemes()) {
    TestModel model(options);
    for (const Kernels* kernels : AvailableKernels()) {
      std::vector<std::vector<int32_t>> sequences;
      for (const int64_t length : {70, 1, 33, 50, 16, 7}) {
        sequences.push_back(RandomTokens(length, static_cast<uint32_t>(length)));
      }
      Harness alone(model, *kernels, 1, options.tokens_per_block);
      std::vector<std::vector<float>> expected;
      for (const auto& tokens : sequences) expected.push_back(Alone(alone, tokens));
      for (const int num_threads : {1, 2, 3}) {
        Harness harness(model, *kernels, num_threads, options.tokens_per_block);
        for (int round = 0; round < 2; ++round) {  // the second among what the first left behind
          const auto actual = Scheduled(harness, sequences, options.tokens_per_block, random);
          for (size_t s = 0; s < sequences.size(); ++s) {
            if (!SameBits(actual[s], expected[s])) {
              fail(__FILE__, __LINE__,
                   name + " on " + kernels->name + ": sequence " + std::to_string(s) + " differs");
            }
          }
        }
      }
    }
  }
}

TEST(schemes_and_instruction_sets_agree_to_rounding) {
  const auto tokens = RandomTokens(60, 5);
  std::vector<float> expected;
  TestModel reference({});
  Harness reference_harness(reference, PortableKernels(), 1);
  expected = Alone(reference_harness, tokens);
  float largest = 0;
  for (const float logit : expected) largest = std::max(largest, std::fabs(logit));
  struct Tolerance {
    TestModelOptions options;
    float relative;
  };
  // bf16 has 8 bits and int8 rows 7 of their largest: through two layers, a few of those errors add
  // up.
  const std::vector<Tolerance> cases = {
      {{}, 1e-5f},
      {{.x = DType::kBF16, .weight = DType::kBF16, .kv = DType::kBF16}, 0.03f},
      {{.weight = DType::kI8}, 0.05f},
      {{.x = DType::kI8, .weight = DType::kI8}, 0.08f},
  };
  for (const Tolerance& c : cases) {
    TestModel model(c.options);
    for (const Kernels* kernels : AvailableKernels()) {
      Harness harness(model, *kernels, 2);
      const std::vector<float> actual = Alone(harness, tokens);
      REQUIRE_EQ(actual.size(), expected.size());
      for (size_t i = 0; i < actual.size(); ++i) {
        CHECK_NEAR(actual[i], expected[i], c.relative * largest);
      }
    }
  }
}

TEST(ranks_together_compute_what_one_would) {
  const auto tokens = RandomTokens(50, 6);
  // Biases are left out of sharded models: compare two and one rank without.
  TestModel two({.tp_size = 2});
  TestModel one({.tp_size = 1});
  for (Step& step : one.program(0).steps) {
    if (step.op == "linear") step.inputs[3] = {Operand::Kind::kAbsent, 0};
  }
  Harness one_harness(one, PortableKernels(), 1);
  Harness two_harness(two, PortableKernels(), 2);
  const auto expected = Alone(one_harness, tokens);
  const auto actual = Alone(two_harness, tokens);
  for (size_t i = 0; i < expected.size(); ++i) CHECK_NEAR(actual[i], expected[i], 1e-4);
  CHECK_EQ(two_harness.info().block_bytes, one_harness.info().block_bytes);
}

TEST(block_copies_come_before_the_step_writes) {
  TestModel model({.kv = DType::kBF16});
  Harness harness(model, PortableKernels(), 1);
  const auto parent = RandomTokens(40, 8);
  auto child = parent;
  child[35] = (child[35] + 1) % static_cast<int32_t>(TestModel::kVocab);
  const auto expected = Alone(harness, child);

  harness.Step({Chunk{parent, 0, 40, {5, 6, 7}}});
  // The child shares two blocks and gets a copy of the third; the parent's goes on in its own in
  // the same step.
  BatchBuilder builder({Chunk{child, 35, 40, {5, 6, 20}}, Chunk{parent, 35, 40, {5, 6, 7}}}, 16);
  builder.block_copies = {7, 20};
  const auto logits = harness.Step(builder);
  const size_t width = TestModel::kVocab;
  const std::vector<float> forked(logits.begin(), logits.begin() + static_cast<long>(5 * width));
  CHECK(SameBits(forked, {expected.begin() + static_cast<long>(35 * width), expected.end()}));
}

TEST(only_wanted_rows_get_logits) {
  TestModel model({});
  Harness harness(model, PortableKernels(), 1);
  const auto tokens = RandomTokens(20, 9);
  const auto all = Alone(harness, tokens);
  BatchBuilder builder({Chunk{tokens, 0, 20, {0, 1}}}, 16);
  builder.logit_rows = {3, 19};
  const auto two = harness.Step(builder);
  const size_t width = TestModel::kVocab;
  REQUIRE_EQ(two.size(), 2 * width);
  for (size_t i = 0; i < width; ++i) {
    CHECK_EQ(two[i], all[3 * width + i]);
    CHECK_EQ(two[width + i], all[19 * width + i]);
  }
  builder.logit_rows = {};
  CHECK(harness.Step(builder).empty());
}

// A prompt in two chunks, of which the first wants no logits, beside another that has none at all.
TEST(rows_that_want_no_logits_may_leave_after_the_last_attention) {
  const auto first = RandomTokens(40, 12), second = RandomTokens(9, 13);
  for (const DType x : {DType::kF32, DType::kBF16, DType::kI8}) {
    for (const int64_t tp_size : {1, 2}) {
      for (const bool scales_columns : {false, true}) {
        TestModelOptions options{.x = x,
                                 .weight = x,
                                 .kv = DType::kBF16,
                                 .qk_norm = scales_columns,
                                 .tp_size = tp_size,
                                 .scales_columns = scales_columns,
                                 .group = scales_columns ? 8 : 0};
        std::vector<std::vector<float>> logits;
        for (const bool gathers_early : {false, true}) {
          options.gathers_early = gathers_early;
          TestModel model(options);
          Harness harness(model, *FindKernels("auto"), 2);
          BatchBuilder begin({Chunk{first, 0, 30, {0, 1}}}, 16);
          begin.logit_rows = {};
          CHECK(harness.Step(begin).empty());
          BatchBuilder end({Chunk{first, 30, 40, {0, 1, 2}}, Chunk{second, 0, 9, {3}}}, 16);
          end.logit_rows = {2, 3, 9, 10, 18};  // the first sequence has 10 rows, the second 9
          logits.push_back(harness.Step(end));
        }
        CHECK(SameBits(logits[0], logits[1]));
      }
    }
  }
}

TEST(greedy_records_get_their_tokens_and_the_others_none) {
  for (const int64_t tp_size : {1, 2}) {
    TestModel model({.tp_size = tp_size});
    for (const int num_threads : {1, 3}) {
      Harness harness(model, PortableKernels(), num_threads);
      const auto tokens = RandomTokens(20, 11);
      Alone(harness, tokens);
      CHECK(harness.token_ids().empty());

      BatchBuilder builder({Chunk{tokens, 0, 20, {0, 1}}}, 16);
      builder.samples.resize(4);
      for (int32_t i = 0; i < 4; ++i) builder.samples[static_cast<size_t>(i)].logit_row = 6 * i;
      builder.samples[0].flags = ENGINERY_SAMPLE_GREEDY;
      builder.samples[1].flags = ENGINERY_SAMPLE_GREEDY | ENGINERY_SAMPLE_HOST_ONLY;
      builder.samples[2].temperature = 1.0f;
      builder.samples[3].temperature = 1.0f;
      builder.samples[3].top_k = 1;
      const auto logits = harness.Step(builder);
      const auto best = [&](int64_t row) {
        const auto begin = logits.begin() + row * TestModel::kVocab;
        return static_cast<int32_t>(std::max_element(begin, begin + TestModel::kVocab) - begin);
      };
      CHECK(harness.token_ids() == (std::vector<int32_t>{best(0), -1, -1, best(18)}));

      builder.samples.resize(2);
      builder.samples[0].flags = 0;
      builder.samples[0].temperature = 1.0f;
      harness.Step(builder);
      CHECK(harness.token_ids().empty());
    }
  }
}

TEST(info_tells_what_the_budget_pays_for) {
  TestModel model({});
  Harness harness(model, PortableKernels(), 1);
  CHECK_EQ(harness.info().num_blocks, kNumBlocks);
  CHECK_EQ(harness.info().vocab_size, TestModel::kVocab);
  // K and V of 2 layers, 2 heads, 16 tokens; V rows are padded to 32 columns.
  CHECK_EQ(harness.info().block_bytes, uint64_t{2 * 2 * 16 * (18 + 32) * 4});
  CHECK_GT(harness.info().workspace_bytes, 0u);
  CHECK_THROWS_WITH(harness.Init(harness.info().block_bytes - 1), Error, "give at least that");
  CHECK_THROWS_WITH(harness.Step({Chunk{{1}, 0, 1, {0}}}), Error, "before init");
}

TEST(a_refused_batch_leaves_the_executor_working) {
  TestModel model({});
  Harness harness(model, PortableKernels(), 2);
  const auto tokens = RandomTokens(20, 10);
  const auto expected = Alone(harness, tokens);
  BatchBuilder bad({Chunk{tokens, 0, 20, {0, 1}}}, 16);
  bad.token_ids[7] = TestModel::kVocab;
  CHECK_THROWS_WITH(harness.Step(bad), Error, "token_ids[7] is 112; accepted: 0..111");
  enginery_step_output output{};
  output.abi_size = sizeof output;
  CHECK_THROWS_WITH(harness.executor().Collect(&output), Error, "without a step");
  CHECK(SameBits(Alone(harness, tokens), expected));
}

}  // namespace
}  // namespace enginery::test
