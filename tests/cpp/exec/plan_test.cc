// SPDX-License-Identifier: Apache-2.0
#include "exec/plan.h"

#include <cmath>
#include <functional>

#include "base/error.h"
#include "check.h"
#include "exec/executor.h"
#include "support/test_model.h"

namespace enginery::test {
namespace {

enginery_status Refusal(TestModel& model, std::string* message) {
  try {
    Executor executor(model.programs(), nullptr, PortableKernels(), 1);
  } catch (const Error& error) {
    *message = error.what();
    return error.status();
  }
  return ENGINERY_OK;
}

using Damage = std::function<void(Program&)>;

void Refused(enginery_status status, const std::string& part, const Damage& damage,
             const TestModelOptions& options = {}) {
  TestModel model(options);
  damage(model.program(0));
  std::string message;
  CHECK_EQ(Refusal(model, &message), status);
  if (message.find(part) == std::string::npos) fail(__FILE__, __LINE__, message + " lacks " + part);
}

Step& Find(Program& program, std::string_view op) {
  for (Step& step : program.steps) {
    if (step.op == op) return step;
  }
  throw std::runtime_error("no such step");
}
Value& Output(Program& program, std::string_view op) {
  return program.values[Find(program, op).outputs[0].index];
}
Tensor& Input(Program& program, std::string_view op, size_t i) {
  return program.tensors[Find(program, op).inputs[i].index];
}

TEST(every_scheme_is_accepted) {
  for (const DType x : {DType::kF32, DType::kBF16, DType::kI8}) {
    TestModel model({.x = x, .weight = x == DType::kF32 ? DType::kF32 : DType::kI8});
    std::string message;
    CHECK_EQ(Refusal(model, &message), ENGINERY_OK);
  }
  TestModel sums_of_codes({.x = DType::kI8, .weight = DType::kI8, .group = 8});
  std::string message;
  CHECK_EQ(Refusal(sums_of_codes, &message), ENGINERY_OK);
}

// A weight of i4 in the place of the first linear's, with its group scales.
void StoreInt4(Program& program, DType scales_dtype, std::vector<uint64_t> scales_shape) {
  static const AlignedBytes kZeros(1 << 16);
  const auto add = [&](DType dtype, Layout layout, std::vector<uint64_t> shape) {
    program.tensors.push_back(
        {"i4", dtype, layout, std::move(shape), kZeros.data(), kZeros.size(), 0, 0});
    return Operand{Operand::Kind::kTensor, static_cast<uint32_t>(program.tensors.size() - 1)};
  };
  Step& linear = Find(program, "linear");
  linear.version = 2;
  const Value& x = program.values[linear.inputs[0].index];
  const Value& y = Output(program, "linear");
  linear.inputs[1] = add(DType::kI4, Layout::kN16K8, {y.columns, x.columns});
  linear.inputs.push_back(add(scales_dtype, Layout::kN16K1, std::move(scales_shape)));
}

TEST(groups_of_int4_weights_are_as_large_as_their_number_says) {
  // qkv of 180 by 46: one group of 64 or 128, two of 32.
  const TestModelOptions options = {.x = DType::kI8, .weight = DType::kI8};
  for (const uint64_t groups : {1, 2}) {
    TestModel model(options);
    StoreInt4(model.program(0), DType::kI8, {180, groups});
    std::string message;
    CHECK_EQ(Refusal(model, &message), ENGINERY_OK);
  }
  const auto refused = [&](DType dtype, std::vector<uint64_t> shape) {
    Refused(
        ENGINERY_INVALID_PROGRAM, "must be group scales: i8 in n16k1 of 180 by one of 1, 1, 2",
        [&](Program& p) { StoreInt4(p, dtype, shape); }, options);
  };
  refused(DType::kI8, {180, 3});
  refused(DType::kI8, {179, 2});
  refused(DType::kI8, {180, uint64_t{1} << 62});
  refused(DType::kF32, {180, 2});
}

TEST(versions_of_linear_say_what_int4_codes_become) {
  const auto store = [](uint32_t version, DType scales) {
    return [version, scales](Program& p) {
      StoreInt4(p, scales, {180, 2});
      Step& linear = Find(p, "linear");
      linear.version = version;
      linear.inputs[4] = {Operand::Kind::kAbsent, 0};
    };
  };
  for (const uint32_t version : {2, 3}) {
    TestModel model({.x = DType::kBF16, .weight = DType::kI8});
    store(version, DType::kF32)(model.program(0));
    std::string message;
    CHECK_EQ(Refusal(model, &message), ENGINERY_OK);
  }
  Refused(ENGINERY_INVALID_PROGRAM, "must be group scales: f32 in n16k1", store(3, DType::kI8),
          {.x = DType::kBF16, .weight = DType::kI8});
  Refused(ENGINERY_INVALID_PROGRAM, "3 for those beside x of bf16", store(3, DType::kI8),
          {.x = DType::kI8, .weight = DType::kI8});
}

TEST(unknown_ops_and_versions_are_unsupported) {
  Refused(ENGINERY_UNSUPPORTED_OP, "no op \"softcap\" of version 1",
          [](Program& p) { Find(p, "silu_mul").op = "softcap"; });
  Refused(ENGINERY_UNSUPPORTED_OP, "no op \"linear\" of version 4",
          [](Program& p) { Find(p, "linear").version = 4; });
  Refused(ENGINERY_UNSUPPORTED_OP, "no op \"kv_append\" of version 1",
          [](Program& p) { Find(p, "kv_append").version = 1; });
  Refused(ENGINERY_UNSUPPORTED_OP, "attribute \"beta\" is not known",
          [](Program& p) { Find(p, "rms_norm").attributes["beta"] = 1.0; });
}

TEST(operands_must_be_as_many_and_of_the_kind) {
  for (const char* op : {"embed", "rms_norm", "linear", "kv_append", "paged_attention", "silu_mul",
                         "scale_columns", "group_sums", "gather_rows"}) {
    const auto refused = [&](const std::string& part, const Damage& damage) {
      Refused(ENGINERY_INVALID_PROGRAM, part, damage, {.scales_columns = true, .group = 8});
    };
    refused("inputs and", [&](Program& p) { Find(p, op).inputs.pop_back(); });
    refused("inputs and",
            [&](Program& p) { Find(p, op).outputs.push_back(Find(p, op).outputs[0]); });
    refused("is not a", [&](Program& p) {
      Operand& first = Find(p, op).inputs[0];
      first.kind = Operand::Kind::kAbsent;
      first.index = 0;
    });
  }
}

TEST(dtypes_and_layouts_must_be_supported) {
  Refused(ENGINERY_UNSUPPORTED_OP, "accepted: f32",
          [](Program& p) { Output(p, "embed").dtype = DType::kBF16; });
  Refused(ENGINERY_UNSUPPORTED_OP, "in n16k4",
          [](Program& p) { Input(p, "linear", 1).layout = Layout::kN16K4; });
  Refused(ENGINERY_UNSUPPORTED_OP, "of f16",
          [](Program& p) { Input(p, "linear", 1).dtype = DType::kF16; });
  Refused(ENGINERY_UNSUPPORTED_OP, "accepted: rows, n16k1",
          [](Program& p) { Input(p, "embed", 0).layout = Layout::kN16K2; });
  Refused(ENGINERY_UNSUPPORTED_OP, "f32 in rows",
          [](Program& p) { Input(p, "rms_norm", 1).dtype = DType::kI32; });
}

TEST(shapes_must_agree) {
  Refused(ENGINERY_INVALID_PROGRAM, "must be [112, 47]",
          [](Program& p) { Output(p, "embed").columns += 1; });
  Refused(ENGINERY_INVALID_PROGRAM, "accepted: 1 of 46",
          [](Program& p) { Input(p, "rms_norm", 1).shape = {45}; });
  Refused(ENGINERY_INVALID_PROGRAM, "must be [180, 46]",
          [](Program& p) { Input(p, "linear", 1).shape = {180, 45}; });
  Refused(ENGINERY_INVALID_PROGRAM,
          "columns; accepted:", [](Program& p) { Output(p, "silu_mul").columns -= 1; });
  Refused(ENGINERY_INVALID_PROGRAM, "rows of logits from rows of tokens",
          [](Program& p) { Output(p, "gather_rows").rows = Rows::kTokens; });
  Refused(ENGINERY_INVALID_PROGRAM, "do not go together",
          [](Program& p) { Output(p, "rms_norm").rows = Rows::kLogits; });
  for (const std::string_view op : {"kv_append", "paged_attention"}) {
    Refused(ENGINERY_INVALID_PROGRAM, "46 columns; accepted: 180", [&](Program& p) {
      Find(p, op).inputs[0] = Find(p, "embed").outputs[0];
      if (op == "kv_append") Find(p, op).outputs = Find(p, "embed").outputs;
    });
  }
  Refused(ENGINERY_INVALID_PROGRAM, "do not go together",
          [](Program& p) { Output(p, "paged_attention").rows = Rows::kLogits; });
  Refused(ENGINERY_INVALID_PROGRAM, "in place",
          [](Program& p) { Find(p, "kv_append").outputs[0] = Find(p, "embed").outputs[0]; });
}

TEST(scaled_columns_and_sums_of_groups_fit_their_operands) {
  const TestModelOptions options = {.scales_columns = true, .group = 8};
  const auto refused = [&](const std::string& part, const Damage& damage) {
    Refused(ENGINERY_INVALID_PROGRAM, part, damage, options);
  };
  refused("accepted: 1 of 108", [](Program& p) { Input(p, "scale_columns", 1).shape = {107}; });
  refused("columns; accepted: 108", [](Program& p) { Output(p, "scale_columns").columns -= 1; });
  refused("do not go together",
          [](Program& p) { Output(p, "scale_columns").rows = Rows::kLogits; });
  refused("columns; accepted: 6", [](Program& p) { Output(p, "group_sums").columns = 5; });
  refused("do not go together", [](Program& p) { Output(p, "group_sums").rows = Rows::kLogits; });
  refused("write over the value", [](Program& p) {
    Step& step = Find(p, "group_sums");
    step.attributes["group"] = int64_t{1};
    step.outputs = step.inputs;
  });
  refused("\"group\" is 0; accepted: 1..16777216",
          [](Program& p) { Find(p, "group_sums").attributes["group"] = int64_t{0}; });
  refused("group", [](Program& p) { Find(p, "group_sums").attributes.clear(); });
}

TEST(attributes_must_be_there_and_in_range) {
  Refused(ENGINERY_INVALID_PROGRAM, "epsilon",
          [](Program& p) { Find(p, "rms_norm").attributes.clear(); });
  Refused(ENGINERY_INVALID_PROGRAM, "\"layer\" is 2; accepted: 0..1",
          [](Program& p) { Find(p, "kv_append").attributes["layer"] = int64_t{2}; });
  Refused(ENGINERY_INVALID_PROGRAM, "accumulate",
          [](Program& p) { Find(p, "linear").attributes["accumulate"] = int64_t{2}; });
  Refused(ENGINERY_INVALID_PROGRAM, "\"sliding_window\" is -1", [](Program& p) {
    Find(p, "paged_attention").attributes["sliding_window"] = int64_t{-1};
  });
  Refused(ENGINERY_INVALID_PROGRAM, "scale is -1",
          [](Program& p) { Find(p, "paged_attention").attributes["scale"] = -1.0; });
}

TEST(programs_must_make_sense_as_a_whole) {
  Refused(ENGINERY_INVALID_PROGRAM, "before a step has written it",
          [](Program& p) { p.steps.erase(p.steps.begin()); });
  Refused(ENGINERY_INVALID_PROGRAM, "that no step has written", [](Program& p) {
    p.steps.erase(p.steps.begin(), p.steps.begin() + 1);
    Find(p, "rms_norm").inputs[0] = Find(p, "linear").outputs[0];
    p.steps.erase(p.steps.begin());
    Find(p, "linear").attributes["accumulate"] = int64_t{1};
  });
  Refused(ENGINERY_INVALID_PROGRAM, "no value named \"logits\"",
          [](Program& p) { p.values.back().name = "scores"; });
  Refused(ENGINERY_INVALID_PROGRAM, "no step writes", [](Program& p) { p.steps.pop_back(); });
  Refused(ENGINERY_INVALID_PROGRAM, "needs column_sums",
          [](Program& p) { Find(p, "linear").inputs[4] = {Operand::Kind::kAbsent, 0}; },
          {.x = DType::kI8, .weight = DType::kI8});
}

TEST(configurations_beyond_the_executor_are_unsupported) {
  Refused(ENGINERY_UNSUPPORTED_OP, "accepted: multiples of 16",
          [](Program& p) { p.attributes["tokens_per_block"] = int64_t{24}; });
  Refused(ENGINERY_UNSUPPORTED_OP, "\"kv_cache_dtype\" is \"float16\"; accepted: float32, bfloat16",
          [](Program& p) { p.attributes["kv_cache_dtype"] = "float16"; });
  Refused(ENGINERY_UNSUPPORTED_OP, "\"dtype\" is \"float16\"",
          [](Program& p) { p.attributes["dtype"] = "float16"; });
  Refused(ENGINERY_UNSUPPORTED_OP, "accepted: 1..1024",
          [](Program& p) { p.attributes["tokens_per_block"] = int64_t{2048}; });
  Refused(ENGINERY_UNSUPPORTED_OP, "even numbers",
          [](Program& p) { p.attributes["head_dim"] = int64_t{17}; });
}

// A scale of one number, for the last input of a step that becomes version 2.
void AddScale(Program& program, std::string_view op, const float* scale) {
  Tensor tensor;
  tensor.name = "scale";
  tensor.dtype = DType::kF32;
  tensor.layout = Layout::kRows;
  tensor.shape = {1};
  tensor.data = reinterpret_cast<const std::byte*>(scale);
  tensor.bytes = sizeof *scale;
  program.tensors.push_back(tensor);
  Step& step = Find(program, op);
  step.version = 2;
  step.inputs.push_back(
      {Operand::Kind::kTensor, static_cast<uint32_t>(program.tensors.size() - 1)});
}

TEST(scales_belong_to_codes) {
  Refused(ENGINERY_INVALID_PROGRAM, "this one is fp8",
          [](Program& p) { p.attributes["kv_cache_dtype"] = "fp8"; });
  static constexpr float kOne = 1.0f, kZero = 0.0f, kInfinity = INFINITY;
  const TestModelOptions codes = {.x = DType::kI8, .weight = DType::kI8, .scales_columns = true};
  for (const std::string_view op : {"rms_norm", "silu_mul", "scale_columns"}) {
    TestModel model(codes);
    AddScale(model.program(0), op, &kOne);
    std::string message;
    CHECK_EQ(Refusal(model, &message), ENGINERY_OK);
    Refused(
        ENGINERY_INVALID_PROGRAM, "is 0; accepted: finite numbers above 0",
        [&](Program& p) { AddScale(p, op, &kZero); }, codes);
    Refused(
        ENGINERY_INVALID_PROGRAM, "accepted: finite numbers above 0",
        [&](Program& p) { AddScale(p, op, &kInfinity); }, codes);
    Refused(ENGINERY_INVALID_PROGRAM, "an output of f32 has no scale",
            [&](Program& p) { AddScale(p, op, &kOne); }, {.scales_columns = true});
    Refused(ENGINERY_INVALID_PROGRAM, "inputs", [&](Program& p) { Find(p, op).version = 2; },
            {.scales_columns = true});
  }
}

TEST(ranks_must_meet_at_the_same_collectives) {
  TestModel model({.tp_size = 2});
  for (Step& step : model.program(1).steps) {
    if (step.op == "all_reduce") {
      step.op = "add";  // x += x: runs, but meets nobody
      break;
    }
  }
  std::string message;
  CHECK_EQ(Refusal(model, &message), ENGINERY_RANK_MISMATCH);
  CHECK(message.find("ranks 0 and 1") != std::string::npos);
}

}  // namespace
}  // namespace enginery::test
