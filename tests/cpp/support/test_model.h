// SPDX-License-Identifier: Apache-2.0
//
// Programs of a random model in memory, for tests of the executor: every scheme, awkward widths,
// any tp_size.
#pragma once

#include <cmath>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "engine/program.h"
#include "support/packing.h"

namespace enginery::test {

struct TestModelOptions {
  DType x = DType::kF32;       // operands of the linears
  DType weight = DType::kF32;  // f32 with f32, bf16 with bf16, i8 with any
  DType kv = DType::kF32;
  bool qk_norm = false;
  int64_t sliding_window = 0;
  int64_t tokens_per_block = 16;
  int64_t tp_size = 1;
  int64_t num_layers = 2;
  bool scales_columns = false;  // of what the output projection reads
  int64_t group = 0;            // the norms' sums in such groups feed qkv; 0: they do not
  bool gathers_early = false;   // rows that want no logits leave before the last layer's queries
};

class TestModel {
 public:
  static constexpr int64_t kVocab = 112, kHidden = 46, kHeads = 6, kKvHeads = 2, kHeadDim = 18,
                           kIntermediate = 38;

  explicit TestModel(const TestModelOptions& options) : options_(options) {
    for (int64_t rank = 0; rank < options.tp_size; ++rank) programs_.push_back(MakeRank(rank));
  }
  std::vector<const Program*> programs() const {
    std::vector<const Program*> programs;
    for (const Program& program : programs_) programs.push_back(&program);
    return programs;
  }
  Program& program(size_t rank) { return programs_[rank]; }

 private:
  using Rows2d = std::vector<std::vector<float>>;  // [n][k]

  // The same for every rank and scheme, so that slices belong together.
  static Rows2d Weight(int64_t n, int64_t k, uint32_t seed) {
    const auto values = RandomFloats(n * k, seed, 1.5f / std::sqrt(static_cast<float>(k)));
    Rows2d rows;
    for (int64_t i = 0; i < n; ++i)
      rows.emplace_back(&values[static_cast<size_t>(i * k)],
                        &values[static_cast<size_t>(i * k)] + k);
    return rows;
  }
  static Rows2d RowSlice(const Rows2d& w, int64_t begin, int64_t end) {
    return {w.begin() + begin, w.begin() + end};
  }
  static Rows2d ColumnSlice(const Rows2d& w, int64_t begin, int64_t end) {
    Rows2d out;
    for (const auto& row : w) out.emplace_back(row.begin() + begin, row.begin() + end);
    return out;
  }
  static void Append(Rows2d& to, const Rows2d& rows) {
    to.insert(to.end(), rows.begin(), rows.end());
  }

  Operand Constant(Program& program, DType dtype, Layout layout, std::vector<uint64_t> shape,
                   AlignedBytes bytes) {
    storage_.push_back(std::move(bytes));
    program.tensors.push_back({"t" + std::to_string(program.tensors.size()), dtype, layout,
                               std::move(shape), storage_.back().data(), storage_.back().size(), 0,
                               0});
    return {Operand::Kind::kTensor, static_cast<uint32_t>(program.tensors.size() - 1)};
  }
  template <class T>
  Operand Vector(Program& program, DType dtype, const std::vector<T>& values) {
    AlignedBytes bytes(values.size() * sizeof(T));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return Constant(program, dtype, Layout::kRows, {values.size()}, std::move(bytes));
  }
  Operand Norm(Program& program, int64_t n, uint32_t seed) {
    auto values = RandomFloats(n, seed, 0.5f);
    for (float& value : values) value += 1.0f;
    return Vector(program, DType::kF32, values);
  }
  static Operand NewValue(Program& program, const std::string& name, DType dtype, Rows rows,
                          int64_t columns) {
    program.values.push_back({name, dtype, rows, static_cast<uint64_t>(columns)});
    return {Operand::Kind::kValue, static_cast<uint32_t>(program.values.size() - 1)};
  }
  static void AddStep(Program& program, const std::string& op, std::vector<Operand> inputs,
                      std::vector<Operand> outputs, Attributes attributes = {},
                      uint32_t version = 1) {
    program.steps.push_back(
        {op, version, std::move(inputs), std::move(outputs), std::move(attributes)});
  }

  void AddLinear(Program& program, Operand x, const Rows2d& w, Operand y, bool accumulate,
                 Operand bias = kAbsent, std::optional<DType> stored_as = std::nullopt) {
    const DType dtype = stored_as.value_or(options_.weight);
    const auto n = static_cast<int64_t>(w.size());
    const auto k = static_cast<int64_t>(w[0].size());
    const std::vector<uint64_t> shape = {w.size(), w[0].size()};
    Operand weight;
    Operand scale = kAbsent;
    Operand sums = kAbsent;
    if (dtype == DType::kI8) {
      std::vector<int8_t> q;
      std::vector<float> scales;
      std::vector<int32_t> column_sums;
      for (const auto& row : w) {
        float largest = 0;
        for (const float value : row) largest = std::max(largest, std::fabs(value));
        scales.push_back(largest / 127.0f);
        column_sums.push_back(0);
        for (const float value : row) {
          q.push_back(static_cast<int8_t>(std::lrint(value / scales.back())));
          column_sums.back() += q.back();
        }
      }
      weight = Constant(program, DType::kI8, Layout::kN16K4, shape, Pack(q, n, k, 4));
      scale = Vector(program, DType::kF32, scales);
      sums = Vector(program, DType::kI32, column_sums);
    } else if (dtype == DType::kBF16) {
      std::vector<uint16_t> flat;
      for (const auto& row : w) {
        for (const float value : row) flat.push_back(ToBf16(value));
      }
      weight = Constant(program, DType::kBF16, Layout::kN16K2, shape, Pack(flat, n, k, 2));
    } else {
      std::vector<float> flat;
      for (const auto& row : w) flat.insert(flat.end(), row.begin(), row.end());
      weight = Constant(program, DType::kF32, Layout::kN16K1, shape, Pack(flat, n, k, 1));
    }
    AddStep(program, "linear", {x, weight, scale, bias, sums}, {y},
            {{"accumulate", int64_t{accumulate}}});
  }

  // hidden += x W^T, over all ranks.
  void AddResidual(Program& program, Operand x, const Rows2d& w, Operand hidden, Operand partial) {
    if (options_.tp_size == 1) return AddLinear(program, x, w, hidden, true);
    AddLinear(program, x, w, partial, false);
    AddStep(program, "all_reduce", {partial}, {partial});
    AddStep(program, "add", {partial}, {hidden});
  }

  static Operand Gathered(Program& program, Operand from) {
    const Value x = program.values[from.index];
    const Operand y = NewValue(program, "last_" + x.name, x.dtype, Rows::kLogits,
                               static_cast<int64_t>(x.columns));
    AddStep(program, "gather_rows", {from}, {y});
    return y;
  }

  // Returns the residual stream: `hidden`, or the rows of it that are left.
  Operand AddLayer(Program& program, int64_t layer, int64_t rank, Operand hidden,
                   Operand inv_freq) {
    const int64_t tp = options_.tp_size;
    const int64_t heads = kHeads / tp, width = kIntermediate / tp;
    const auto seed = static_cast<uint32_t>(100 * (layer + 1));
    Rows rows = Rows::kTokens;
    const auto value = [&](const std::string& name, DType dtype, int64_t columns) {
      return NewValue(program, name + std::to_string(layer), dtype, rows, columns);
    };
    Operand norm = value("norm", options_.x, kHidden);
    AddStep(program, "rms_norm", {hidden, Norm(program, kHidden, seed)}, {norm},
            {{"epsilon", 1e-5}});
    const auto slice = [&](const Rows2d& w) {
      const auto part = static_cast<int64_t>(w.size()) / tp;
      return RowSlice(w, rank * part, (rank + 1) * part);
    };
    Rows2d qkv_weight = slice(Weight(kHeads * kHeadDim, kHidden, seed + 1));
    Append(qkv_weight, slice(Weight(kKvHeads * kHeadDim, kHidden, seed + 2)));
    Append(qkv_weight, slice(Weight(kKvHeads * kHeadDim, kHidden, seed + 3)));
    const auto qkv_columns = static_cast<int64_t>(qkv_weight.size());
    const auto bias = RandomFloats(qkv_columns, seed + 4, 0.1f);
    const int64_t num_groups = options_.group > 0 ? (kHidden - 1) / options_.group + 1 : 0;
    // The columns [begin, end) of queries, keys and values.
    const auto project = [&](const std::string& name, int64_t begin, int64_t end) {
      const Operand y = value(name, DType::kF32, end - begin);
      const std::vector<float> part(bias.begin() + begin, bias.begin() + end);
      AddLinear(program, norm, RowSlice(qkv_weight, begin, end), y, false,
                tp == 1 ? Vector(program, DType::kF32, part) : kAbsent);
      if (num_groups > 0) {
        const Operand sums = value(name + "_sums", DType::kF32, num_groups);
        AddStep(program, "group_sums", {norm}, {sums}, {{"group", options_.group}});
        const Rows2d weight = Weight(qkv_columns, num_groups, seed + 12);
        AddLinear(program, sums, RowSlice(weight, begin, end), y, true, kAbsent, DType::kF32);
      }
      return y;
    };
    const bool gathers = options_.gathers_early && layer == options_.num_layers - 1;
    const int64_t q_columns = heads * kHeadDim;
    const Operand kv =
        gathers ? project("kv", q_columns, qkv_columns) : project("qkv", 0, qkv_columns);
    const Operand k_norm = options_.qk_norm ? Norm(program, kHeadDim, seed + 6) : kAbsent;
    AddStep(program, "kv_append", {kv, inv_freq, k_norm, kAbsent, kAbsent}, {kv},
            {{"layer", layer}, {"rope_scale", 1.0}, {"epsilon", 1e-6}}, 3);
    Operand q = kv, mlp_norm = norm;
    if (gathers) {
      rows = Rows::kLogits;
      norm = Gathered(program, norm);
      hidden = Gathered(program, hidden);
      q = project("q", 0, q_columns);
      mlp_norm = value("mlp_norm", options_.x, kHidden);
    }
    const Operand q_norm = options_.qk_norm ? Norm(program, kHeadDim, seed + 5) : kAbsent;
    const DType context_dtype = options_.scales_columns ? DType::kF32 : options_.x;
    Operand context = value("context", context_dtype, q_columns);
    AddStep(program, "paged_attention", {q, inv_freq, q_norm, kAbsent, kAbsent, kAbsent}, {context},
            {{"layer", layer},
             {"scale", 1 / std::sqrt(static_cast<double>(kHeadDim))},
             {"sliding_window", options_.sliding_window},
             {"rope_scale", 1.0},
             {"epsilon", 1e-6}},
            3);
    const Operand partial = value("partial", DType::kF32, kHidden);
    const Operand gate_up = value("gate_up", DType::kF32, 2 * width);
    const Operand act = value("act", options_.x, width);
    if (options_.scales_columns) {
      const auto factors = RandomFloats(kHeads * kHeadDim, seed + 13, 2.0f);
      const auto first = factors.begin() + rank * q_columns;
      const Operand scaled = value("scaled", options_.x, q_columns);
      const Operand factor =
          Vector(program, DType::kF32, std::vector<float>(first, first + q_columns));
      AddStep(program, "scale_columns", {context, factor}, {scaled});
      context = scaled;
    }
    AddResidual(program, context,
                ColumnSlice(Weight(kHidden, kHeads * kHeadDim, seed + 7), rank * q_columns,
                            (rank + 1) * q_columns),
                hidden, partial);
    AddStep(program, "rms_norm", {hidden, Norm(program, kHidden, seed + 8)}, {mlp_norm},
            {{"epsilon", 1e-5}});
    Rows2d gate_up_weight = slice(Weight(kIntermediate, kHidden, seed + 9));
    Append(gate_up_weight, slice(Weight(kIntermediate, kHidden, seed + 10)));
    AddLinear(program, mlp_norm, gate_up_weight, gate_up, false);
    AddStep(program, "silu_mul", {gate_up}, {act});
    AddResidual(
        program, act,
        ColumnSlice(Weight(kHidden, kIntermediate, seed + 11), rank * width, (rank + 1) * width),
        hidden, partial);
    return hidden;
  }

  Program MakeRank(int64_t rank) {
    const int64_t tp = options_.tp_size;
    Program program;
    program.attributes = {{"architecture", "LlamaForCausalLM"},
                          {"dtype", options_.x == DType::kF32 ? "float32" : "bfloat16"},
                          {"qformat", options_.weight != DType::kI8 ? "none"
                                      : options_.x == DType::kI8    ? "int8_dynamic"
                                                                    : "int8_wo"},
                          {"kv_cache_dtype", options_.kv == DType::kF32 ? "float32" : "bfloat16"},
                          {"vocab_size", kVocab},
                          {"hidden_size", kHidden},
                          {"num_layers", options_.num_layers},
                          {"num_heads", kHeads / tp},
                          {"num_kv_heads", kKvHeads / tp},
                          {"head_dim", kHeadDim},
                          {"max_batch_size", int64_t{8}},
                          {"max_num_tokens", int64_t{256}},
                          {"max_seq_len", int64_t{256}},
                          {"max_input_len", int64_t{256}},
                          {"tokens_per_block", options_.tokens_per_block},
                          {"eos_token_ids", std::vector<int64_t>{1}},
                          {"bos_token_id", int64_t{0}},
                          {"pad_token_id", int64_t{-1}}};
    std::vector<float> embedding;
    for (const auto& row : Weight(kVocab, kHidden, 1)) {
      for (const float value : row) embedding.push_back(4.0f * value);
    }
    AlignedBytes embedding_bytes(embedding.size() * sizeof(float));
    std::memcpy(embedding_bytes.data(), embedding.data(), embedding_bytes.size());
    const Operand table = Constant(program, DType::kF32, Layout::kRows, {kVocab, kHidden},
                                   std::move(embedding_bytes));
    std::vector<float> frequencies;
    for (int64_t i = 0; i < kHeadDim / 2; ++i) {
      frequencies.push_back(std::pow(100.0f, -2.0f * static_cast<float>(i) / kHeadDim));
    }
    const Operand inv_freq = Vector(program, DType::kF32, frequencies);
    Operand hidden = NewValue(program, "hidden", DType::kF32, Rows::kTokens, kHidden);
    AddStep(program, "embed", {table, kAbsent}, {hidden});
    for (int64_t layer = 0; layer < options_.num_layers; ++layer) {
      hidden = AddLayer(program, layer, rank, hidden, inv_freq);
    }
    const Operand last = options_.gathers_early ? hidden : Gathered(program, hidden);
    const Operand last_norm = NewValue(program, "last_norm", options_.x, Rows::kLogits, kHidden);
    const Operand logits = NewValue(program, "logits", DType::kF32, Rows::kLogits, kVocab);
    AddStep(program, "rms_norm", {last, Norm(program, kHidden, 2)}, {last_norm},
            {{"epsilon", 1e-5}});
    const Rows2d lm_head = Weight(kVocab, kHidden, 3);
    const size_t first_tensor = program.tensors.size();
    if (tp == 1) {
      AddLinear(program, last_norm, lm_head, logits, false);
    } else {
      const Operand part = NewValue(program, "part", DType::kF32, Rows::kLogits, kVocab / tp);
      AddLinear(program, last_norm, RowSlice(lm_head, rank * kVocab / tp, (rank + 1) * kVocab / tp),
                part, false);
      AddStep(program, "all_gather", {part}, {logits});
    }
    program.tensors[first_tensor].name = "lm_head.weight";
    return program;
  }

  static constexpr Operand kAbsent{Operand::Kind::kAbsent, 0};
  TestModelOptions options_;
  std::deque<AlignedBytes> storage_;  // what tensors point to
  std::deque<Program> programs_;
};

}  // namespace enginery::test
