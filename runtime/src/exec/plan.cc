// SPDX-License-Identifier: Apache-2.0
#include "exec/plan.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include "base/error.h"
#include "base/str_cat.h"
#include "engine/invalid.h"
#include "exec/ops/ops.h"
#include "exec/ops/product.h"

namespace enginery {
namespace {

// Fewer than any real program has; the packing of the workspace is quadratic in it.
constexpr size_t kMaxBuffers = 16384;
// Sizes of the KV cache are products of these: they stay below 2^63.
constexpr int64_t kMaxLayers = 4096, kMaxHeads = 1024, kMaxHeadDim = 1024,
                  kMaxTokensPerBlock = 1024;

void CheckRange(std::string_view name, int64_t value, int64_t high) {
  if (value > high) {
    ThrowInvalid(ENGINERY_UNSUPPORTED_OP, StrCat("program: attribute ", Quoted(name)), value,
                 StrCat("1..", high));
  }
}

void CheckOneOf(std::string_view name, const std::string& value,
                std::initializer_list<std::string_view> accepted) {
  if (std::ranges::find(accepted, value) != accepted.end()) return;
  std::string list;
  for (const std::string_view one : accepted) list += StrCat(list.empty() ? "" : ", ", one);
  ThrowInvalid(ENGINERY_UNSUPPORTED_OP, StrCat("program: attribute ", Quoted(name)), Quoted(value),
               list);
}

void CheckConfig(const ModelConfig& config) {
  CheckOneOf("dtype", config.dtype, {"float32", "bfloat16"});
  CheckOneOf("kv_cache_dtype", config.kv_cache_dtype, {"float32", "bfloat16", "int8", "fp8"});
  CheckRange("num_layers", config.num_layers, kMaxLayers);
  CheckRange("num_heads", config.num_heads, kMaxHeads);
  CheckRange("head_dim", config.head_dim, kMaxHeadDim);
  CheckRange("tokens_per_block", config.tokens_per_block, kMaxTokensPerBlock);
  if (config.head_dim % 2 != 0) {
    ThrowInvalid(ENGINERY_UNSUPPORTED_OP, "program: attribute \"head_dim\"", config.head_dim,
                 "even numbers");
  }
  if (config.tokens_per_block % 16 != 0) {
    ThrowInvalid(ENGINERY_UNSUPPORTED_OP, "program: attribute \"tokens_per_block\"",
                 config.tokens_per_block, "multiples of 16");
  }
}

// Of the names that CheckConfig accepts.
DType KvDType(std::string_view name) {
  if (name == "float32") return DType::kF32;
  if (name == "int8") return DType::kI8;
  return name == "fp8" ? DType::kF8E4M3 : DType::kBF16;
}

bool IsValue(const Operand& operand, uint32_t index) {
  return operand.kind == Operand::Kind::kValue && operand.index == index;
}

// Whether a `linear` adds to what is there; one that does not say so is taken to.
bool Accumulates(const Step& linear) {
  const auto found = linear.attributes.find("accumulate");
  return found == linear.attributes.end() || found->second != Attribute(int64_t{0});
}

struct RegisteredOp {
  std::string_view name;
  uint32_t version;
  PrepareFunction prepare;
};

constexpr std::array kOps = {
    RegisteredOp{"embed", 1, PrepareEmbed},
    RegisteredOp{"rms_norm", 1, PrepareRmsNorm},
    RegisteredOp{"rms_norm", 2, PrepareRmsNorm},
    RegisteredOp{"linear", 1, PrepareLinear},
    RegisteredOp{"linear", 2, PrepareLinear},
    RegisteredOp{"linear", 3, PrepareLinear},
    RegisteredOp{"kv_append", 3, PrepareKvAppend},
    RegisteredOp{"paged_attention", 3, PreparePagedAttention},
    RegisteredOp{"silu_mul", 1, PrepareSiluMul},
    RegisteredOp{"silu_mul", 2, PrepareSiluMul},
    RegisteredOp{"scale_columns", 1, PrepareScaleColumns},
    RegisteredOp{"scale_columns", 2, PrepareScaleColumns},
    RegisteredOp{"group_sums", 1, PrepareGroupSums},
    RegisteredOp{"gather_rows", 1, PrepareGatherRows},
    RegisteredOp{"all_reduce", 1, PrepareAllReduce},
    RegisteredOp{"all_gather", 1, PrepareAllGather},
    RegisteredOp{"add", 1, PrepareAdd},
};

}  // namespace

int64_t QueryTileTokens(const ModelConfig& config) {
  constexpr int64_t kRows = 128;
  return std::max<int64_t>(1, kRows / (config.num_heads / config.num_kv_heads));
}

PrepareFunction FindOp(std::string_view name, uint32_t version) {
  for (const RegisteredOp& op : kOps) {
    if (op.name == name && op.version == version) return op.prepare;
  }
  return nullptr;
}

std::vector<Product*> Plan::products() const {
  std::vector<Product*> products;
  for (const PreparedStep& step : steps) {
    const auto* op = std::get_if<std::unique_ptr<Op>>(&step);
    if (op != nullptr && (*op)->product() != nullptr) products.push_back((*op)->product());
  }
  return products;
}

PlanBuilder::PlanBuilder(const Program& program, int64_t tp_size)
    : program_(program), tp_size_(tp_size) {
  plan_.config = ReadModelConfig(program.attributes);
  CheckConfig(plan_.config);
  const ModelConfig& config = plan_.config;
  plan_.kv = {config.num_layers, config.num_kv_heads, config.head_dim, config.tokens_per_block,
              KvDType(config.kv_cache_dtype)};
  for (const Value& value : program.values) {
    plan_.buffers.push_back(
        {value.rows, value.dtype, static_cast<int64_t>(value.columns), false, 0, -1});
  }
  is_written_.resize(program.values.size());
  FindLogits();
}

bool PlanBuilder::ExpectKvScales(const StepReader& step, size_t input) const {
  const bool has_scales = step.has_input(input);
  const bool is_quantized = kv_dtype() == DType::kI8 || kv_dtype() == DType::kF8E4M3;
  if (has_scales != is_quantized || has_scales != step.has_input(input + 1)) {
    step.ThrowInvalid(StrCat("scales of keys and values (inputs ", input, " and ", input + 1,
                             ") are there with a KV cache of int8 or fp8 and with no other; "
                             "this one is ",
                             config().kv_cache_dtype));
  }
  return has_scales;
}

int64_t PlanBuilder::query_tile_tokens() const { return QueryTileTokens(config()); }

void PlanBuilder::FindLogits() {
  for (size_t i = 0; i < program_.values.size(); ++i) {
    const Value& value = program_.values[i];
    if (value.name != "logits") continue;
    if (value.dtype != DType::kF32 || value.rows != Rows::kLogits ||
        value.columns != static_cast<uint64_t>(config().vocab_size)) {
      throw Error(
          ENGINERY_INVALID_PROGRAM,
          StrCat("value \"logits\" is ", Name(value.dtype), " of ", Name(value.rows), " by ",
                 value.columns, "; accepted: f32 of logits by ", config().vocab_size));
    }
    plan_.logits = i;
    plan_.buffers[i].is_dense = true;
    return;
  }
  throw Error(ENGINERY_INVALID_PROGRAM, "the program has no value named \"logits\"");
}

size_t PlanBuilder::AddBuffer(Rows rows, DType dtype, int64_t columns) {
  const int64_t step = static_cast<int64_t>(step_index_);
  plan_.buffers.push_back({rows, dtype, columns, false, step, step});
  return plan_.buffers.size() - 1;
}

size_t PlanBuilder::AddRope(const StepReader& step, size_t inv_freq_input) {
  const int64_t half_dim = config().head_dim / 2;
  const float* inv_freq = step.f32_vector(inv_freq_input, half_dim);
  const float scale = step.float_attribute("rope_scale", 0, 1e6);
  for (const RopeSpec& rope : plan_.ropes) {
    if (rope.inv_freq == inv_freq && rope.half_dim == half_dim && rope.scale == scale) {
      return rope.buffer;
    }
  }
  const size_t buffer = AddBuffer(Rows::kTokens, DType::kF32, 2 * half_dim);
  plan_.buffers[buffer].first_step = 0;
  plan_.buffers[buffer].last_step = static_cast<int64_t>(program_.steps.size());
  plan_.ropes.push_back({inv_freq, half_dim, scale, buffer});
  return buffer;
}

void PlanBuilder::RequireThreadScratch(int64_t bytes) {
  plan_.thread_scratch_bytes = std::max(plan_.thread_scratch_bytes, bytes);
}

// Notes how long values live, and refuses to read what no step has written.
void PlanBuilder::TrackOperands(const StepReader& step, size_t index,
                                std::optional<size_t> without) {
  const auto use = [&](size_t value) {
    if (value == without) return;
    BufferSpec& buffer = plan_.buffers[value];
    if (buffer.last_step < 0) buffer.first_step = static_cast<int64_t>(index);
    buffer.last_step = static_cast<int64_t>(index);
  };
  for (const Operand& operand : step.step().inputs) {
    if (operand.kind != Operand::Kind::kValue) continue;
    if (!is_written_[operand.index]) {
      step.ThrowInvalid(StrCat("reads value ", Quoted(program_.values[operand.index].name),
                               " before a step has written it"));
    }
    use(operand.index);
  }
  for (const Operand& operand : step.step().outputs) {
    if (operand.kind != Operand::Kind::kValue) step.ThrowInvalid("an output is not a value");
    is_written_[operand.index] = true;
    use(operand.index);
  }
}

bool PlanBuilder::FusesSiluMul(size_t index) const {
  if (index + 1 >= program_.steps.size()) return false;
  const Step& linear = program_.steps[index];
  const Step& silu_mul = program_.steps[index + 1];
  if (linear.op != "linear" || silu_mul.op != "silu_mul" || silu_mul.version != 1 ||
      linear.inputs.empty() || linear.outputs.size() != 1 || silu_mul.inputs.size() != 1 ||
      silu_mul.outputs.size() != 1 || !IsValue(linear.outputs[0], silu_mul.inputs[0].index) ||
      silu_mul.inputs[0].kind != Operand::Kind::kValue) {
    return false;
  }
  // The product is not added to something, y is not written over the x that is still read, and the
  // up begins with a panel.
  const uint32_t product = linear.outputs[0].index;
  if (Accumulates(linear) || IsValue(linear.inputs[0], silu_mul.outputs[0].index) ||
      product == plan_.logits || program_.values[product].columns % (2 * kPanelChannels) != 0) {
    return false;
  }
  // Nobody reads the product later: the next step that touches it writes it anew.
  for (size_t i = index + 2; i < program_.steps.size(); ++i) {
    const Step& step = program_.steps[i];
    const auto is_product = [&](const Operand& operand) { return IsValue(operand, product); };
    if (std::ranges::any_of(step.inputs, is_product)) return false;
    if (std::ranges::any_of(step.outputs, is_product)) {
      return step.op == "linear" && !Accumulates(step);
    }
  }
  return true;
}

size_t PlanBuilder::PrepareSteps(size_t index) {
  step_index_ = index;
  const StepReader step(program_, index);
  const PrepareFunction prepare = FindOp(step.step().op, step.step().version);
  if (prepare == nullptr) {
    step.ThrowUnsupported(StrCat("the cpu executor has no op ", Quoted(step.step().op),
                                 " of version ", step.step().version,
                                 "; build the engine with this version of enginery"));
  }
  if (FusesSiluMul(index)) {
    const StepReader silu_mul(program_, index + 1);
    PreparedStep prepared = PrepareLinearSiluMul(step, silu_mul, *this);
    const uint32_t between = step.step().outputs[0].index;
    TrackOperands(step, index, between);
    TrackOperands(silu_mul, index, between);
    plan_.steps.push_back(std::move(prepared));
    return 2;
  }
  // Ops that add to a value read it too; they say so here, before it counts as written.
  PreparedStep prepared = prepare(step, *this);
  TrackOperands(step, index);
  plan_.steps.push_back(std::move(prepared));
  return 1;
}

void PlanBuilder::ExpectWritten(const StepReader& step, const ValueOperand& value) const {
  if (!is_written_[value.index]) step.ThrowInvalid("adds to a value that no step has written");
}

// Tells every product which one comes after it; the last, that of the next run's beginning.
void PlanBuilder::LinkProducts() {
  const std::vector<Product*> products = plan_.products();
  for (size_t i = 0; i < products.size(); ++i) {
    products[i]->next = products[(i + 1) % products.size()];
  }
}

Plan PlanBuilder::Build() && {
  for (size_t i = 0; i < program_.steps.size();) i += PrepareSteps(i);
  LinkProducts();
  if (!is_written_[plan_.logits]) {
    throw Error(ENGINERY_INVALID_PROGRAM, "no step writes the value \"logits\"");
  }
  // The caller reads the logits after the last step.
  plan_.buffers[plan_.logits].last_step = static_cast<int64_t>(program_.steps.size());
  if (plan_.buffers.size() > kMaxBuffers) {
    ThrowInvalid(ENGINERY_UNSUPPORTED_OP, "number of values", plan_.buffers.size(),
                 StrCat("1..", kMaxBuffers));
  }
  return std::move(plan_);
}

}  // namespace enginery
