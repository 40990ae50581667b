// SPDX-License-Identifier: Apache-2.0
#include "exec/profiler.h"

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "check.h"
#include "exec/executor.h"
#include "support/batch_builder.h"
#include "support/test_model.h"

namespace enginery::test {
namespace {

constexpr int64_t kTokensPerBlock = 16;
constexpr int64_t kVocab = TestModel::kVocab, kHidden = TestModel::kHidden,
                  kHeads = TestModel::kHeads, kKvHeads = TestModel::kKvHeads,
                  kHeadDim = TestModel::kHeadDim, kIntermediate = TestModel::kIntermediate;

class Harness {
 public:
  explicit Harness(TestModel& model, int num_threads = 2)
      : executor_(model.programs(), nullptr, *FindKernels("auto"), num_threads) {
    enginery_limits limits{};
    limits.abi_size = sizeof limits;
    limits.max_batch_size = 4;
    limits.max_num_tokens = 64;
    limits.max_logit_rows = 64;
    limits.max_seq_len = 64;
    limits.tokens_per_block = kTokensPerBlock;
    enginery_executor_info info{};
    info.abi_size = sizeof info;
    executor_.Init(limits, 1 << 20, &info);
  }
  // A prefill of 20 tokens beside a token at position 6 of a sequence computed before.
  std::vector<float> Step() {
    Run({Tokens(0, 6, {4})});
    return Run({Tokens(0, 20, {1, 2}), Tokens(6, 7, {4})});
  }
  Profiler& profiler() { return *executor_.profiler(); }

 private:
  static Chunk Tokens(int64_t begin, int64_t end, std::vector<int32_t> blocks) {
    Chunk chunk{{}, begin, end, std::move(blocks)};
    for (int32_t i = 0; i < end; ++i) chunk.tokens.push_back((7 * i + 3) % kVocab);
    return chunk;
  }
  std::vector<float> Run(const std::vector<Chunk>& chunks) {
    const BatchBuilder builder(chunks, kTokensPerBlock);
    const AlignedBytes batch = builder.Build();
    executor_.Execute(AsBatch(batch));
    enginery_step_output output{};
    output.abi_size = sizeof output;
    executor_.Collect(&output);
    return {output.logits, output.logits + builder.logit_rows.size() * size_t{kVocab}};
  }

  Executor executor_;
};

// By name of the op, whatever its weight.
std::map<std::string, OpProfile> ByOp(const StepProfile& step) {
  std::map<std::string, OpProfile> ops;
  for (const OpProfile& op : step.ops) {
    OpProfile& sum = ops[op.op];
    sum.unit = op.unit;
    sum.num_calls += op.num_calls;
    sum.bytes += op.bytes;
    sum.operations += op.operations;
    sum.duration_ns += op.duration_ns;
  }
  return ops;
}

// Of a weight as it lies in memory: panels of 16 output channels.
constexpr int64_t PackedBytes(int64_t n, int64_t k, int64_t element_bytes) {
  return (n + 15) / 16 * 16 * k * element_bytes;
}

TEST(work_is_what_the_shapes_imply) {
  TestModel model({.num_layers = 2});
  Harness harness(model);
  harness.profiler().set_enabled(true);
  harness.Step();
  const std::vector<StepProfile> steps = harness.profiler().Steps();
  REQUIRE_EQ(steps.size(), 2);
  std::map<std::string, OpProfile> ops = ByOp(steps[1]);

  constexpr int64_t kTokens = 21, kLayers = 2;
  constexpr int64_t kQkv = (kHeads + 2 * kKvHeads) * kHeadDim;
  constexpr int64_t kWeights =  // elements of a layer
      kQkv * kHidden + kHidden * kHeads * kHeadDim + 3 * kIntermediate * kHidden;
  int64_t products = 0;
  int64_t product_bytes = 0;
  int64_t num_products = 0;
  for (const auto& [name, op] : ops) {
    if (!name.starts_with("linear")) continue;
    products += static_cast<int64_t>(op.operations);
    product_bytes += static_cast<int64_t>(op.bytes);
    num_products += static_cast<int64_t>(op.num_calls);
    CHECK_EQ(op.unit, "f32");
  }
  CHECK_EQ(num_products, kLayers * 4 + 1);
  CHECK_EQ(products, 2 * kTokens * (kLayers * kWeights + kVocab * kHidden));
  CHECK_EQ(product_bytes, kLayers * (PackedBytes(kQkv, kHidden, 4) + 4 * kQkv +
                                     PackedBytes(kHidden, kHeads * kHeadDim, 4) +
                                     PackedBytes(2 * kIntermediate, kHidden, 4) +
                                     PackedBytes(kHidden, kIntermediate, 4)) +
                              PackedBytes(kVocab, kHidden, 4));

  constexpr int64_t kKvBytes = 2 * kKvHeads * kHeadDim * 4;  // of a token
  CHECK_EQ(ops["embed"].bytes, kTokens * kHidden * 4);
  CHECK_EQ(ops["kv_append"].num_calls, kLayers);
  CHECK_EQ(ops["kv_append"].bytes, kLayers * kTokens * kKvBytes);
  // Positions 0 .. 19 see 1 .. 20 tokens, position 6 sees 7.
  CHECK_EQ(ops["paged_attention"].operations, kLayers * 4 * (20 * 21 / 2 + 7) * kHeads * kHeadDim);
  CHECK_EQ(ops["paged_attention"].bytes, kLayers * (20 + 7) * kKvBytes);
  CHECK_EQ(ops["rms_norm"].num_calls, 2 * kLayers + 1);
  CHECK_EQ(ops["rms_norm"].bytes, (2 * kLayers + 1) * kHidden * 4);
  CHECK_EQ(ops["gather_rows"].num_calls, 1);
  CHECK_EQ(ops["rope"].num_calls, 1);
}

TEST(a_sliding_window_bounds_what_attention_reads) {
  TestModel model({.sliding_window = 5, .num_layers = 1});
  Harness harness(model);
  harness.profiler().set_enabled(true);
  harness.Step();
  const OpProfile attention = ByOp(harness.profiler().Steps()[1])["paged_attention"];
  // Positions 0 .. 4 see 1 .. 5 tokens, those after them 5 each.
  CHECK_EQ(attention.operations, 4 * (15 + 15 * 5 + 5) * kHeads * kHeadDim);
  CHECK_EQ(attention.bytes, (20 + 5) * 2 * kKvHeads * kHeadDim * 4);
}

TEST(quantised_weights_count_as_they_are_stored) {
  TestModel model({.x = DType::kI8, .weight = DType::kI8, .kv = DType::kBF16, .num_layers = 1});
  Harness harness(model);
  harness.profiler().set_enabled(true);
  harness.Step();
  const std::vector<StepProfile> steps = harness.profiler().Steps();
  for (const OpProfile& op : steps[1].ops) {
    if (op.role != "lm_head") continue;
    CHECK_EQ(op.unit, "i8");
    // Groups of 4 along the depth, scales and column sums.
    CHECK_EQ(op.bytes, PackedBytes(kVocab, (kHidden + 3) / 4 * 4, 1) + 8 * kVocab);
    return;
  }
  CHECK(false);
}

TEST(ranks_and_collectives_are_counted) {
  TestModel model({.tp_size = 2, .num_layers = 2});
  Harness harness(model);
  harness.profiler().set_enabled(true);
  harness.Step();
  std::map<std::string, OpProfile> ops = ByOp(harness.profiler().Steps()[1]);
  CHECK_EQ(ops["all_reduce"].num_calls, 2 * 2);
  CHECK_EQ(ops["all_gather"].num_calls, 1);
  CHECK_EQ(ops["embed"].num_calls, 2);
}

TEST(measuring_changes_no_result_and_is_off_until_asked_for) {
  TestModel model({.x = DType::kI8, .weight = DType::kI8});
  Harness harness(model);
  const std::vector<float> off = harness.Step();
  CHECK(harness.profiler().Steps().empty());
  harness.profiler().set_enabled(true);
  CHECK(harness.Step() == off);
  CHECK_EQ(harness.profiler().Steps().size(), 2);
  harness.profiler().set_enabled(false);
  CHECK(harness.Step() == off);
  CHECK_EQ(harness.profiler().Steps().size(), 2);  // kept, none added
  harness.profiler().set_enabled(true);
  CHECK(harness.profiler().Steps().empty());
}

TEST(a_step_that_began_before_belongs_to_what_is_forgotten) {
  Profiler profiler;
  CHECK(profiler.BeginStep(1) == nullptr);
  profiler.EndStep(nullptr);
  profiler.set_enabled(true);
  Profiler::Step* step = profiler.BeginStep(2);
  REQUIRE(step != nullptr);
  profiler.set_enabled(true);
  profiler.EndStep(step);
  CHECK(profiler.Steps().empty());
}

TEST(only_the_last_steps_are_kept) {
  Profiler profiler;
  profiler.set_enabled(true);
  for (uint64_t id = 0; id < Profiler::kMaxSteps + 5; ++id) {
    Profiler::Step* step = profiler.BeginStep(id);
    step->Time([] {}, [] { return OpWork{.op = "one", .bytes = 3}; });
    step->Time([] {}, [] { return OpWork{.op = "one", .bytes = 4}; });
    profiler.EndStep(step);
  }
  const std::vector<StepProfile> steps = profiler.Steps();
  REQUIRE_EQ(steps.size(), Profiler::kMaxSteps);
  CHECK_EQ(steps.front().step_id, 5);
  REQUIRE_EQ(steps.back().ops.size(), 1);
  CHECK_EQ(steps.back().ops[0].num_calls, 2);
  CHECK_EQ(steps.back().ops[0].bytes, 7);
}

TEST(roles_come_from_the_names_of_weights) {
  CHECK_EQ(WeightRole("model.layers.11.mlp.down_proj.weight"), "down_proj");
  CHECK_EQ(WeightRole("layers.0.qkv"), "qkv");
  CHECK_EQ(WeightRole("lm_head"), "lm_head");
}

}  // namespace
}  // namespace enginery::test
