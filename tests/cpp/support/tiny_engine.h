// SPDX-License-Identifier: Apache-2.0
//
// A whole model of one layer in about 10 KB, with every dtype, layout and kind of attribute of the
// format. Its weights are small numbers that a formula gives.
#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "support/engine_builder.h"

namespace enginery::test {

// A fixed pattern of quarters in [-1, 1]: exact in f32 and bf16.
inline float TinyWeight(uint64_t tensor, uint64_t n, uint64_t k) {
  return static_cast<float>((tensor * 5 + n * 7 + k * 3) % 9) / 4.0f - 1.0f;
}
inline int8_t TinyInt8Weight(uint64_t tensor, uint64_t n, uint64_t k) {
  return static_cast<int8_t>(static_cast<int>((tensor * 5 + n * 7 + k * 3) % 255) - 127);
}

class TinyEngine {
 public:
  static constexpr uint64_t kVocab = 11, kHidden = 16, kHeads = 2, kKvHeads = 1, kHeadDim = 8,
                            kIntermediate = 24;
  using Builder = EngineBuilder;
  using Operand = Builder::Operand;

  // The rank files differ in their header only: no tensor is sliced.
  explicit TinyEngine(uint32_t tp_size = 1, uint32_t tp_rank = 0) {
    builder_.tp_size = tp_size;
    builder_.tp_rank = tp_rank;
    AddAttributes();
    AddTokens();
    AddLayer();
  }
  Builder& builder() { return builder_; }
  AlignedBytes Build() { return builder_.Build(); }

 private:
  // In the order of their names, as a description of the engine gives them.
  void AddAttributes() {
    builder_.attributes = {{"architecture", "LlamaForCausalLM"},
                           {"bos_token_id", int64_t{0}},
                           {"dtype", "float32"},
                           {"eos_token_ids", std::vector<int64_t>{1}},
                           {"head_dim", static_cast<int64_t>(kHeadDim)},
                           {"hidden_size", static_cast<int64_t>(kHidden)},
                           {"kv_cache_dtype", "float32"},
                           {"max_batch_size", int64_t{4}},
                           {"max_input_len", int64_t{24}},
                           {"max_num_tokens", int64_t{16}},
                           {"max_seq_len", int64_t{32}},
                           {"num_heads", static_cast<int64_t>(kHeads)},
                           {"num_kv_heads", static_cast<int64_t>(kKvHeads)},
                           {"num_layers", int64_t{1}},
                           {"pad_token_id", int64_t{-1}},
                           {"qformat", "none"},
                           {"tokens_per_block", int64_t{4}},
                           {"vocab_size", static_cast<int64_t>(kVocab)},
                           {"x_floats", std::vector<double>{0.5, -1e-5, 1e300}}};
  }

  void AddTokens() {
    builder_.AddToken("<s>", 1);
    builder_.AddToken("</s>", 1);
    builder_.AddToken("", 2);
    builder_.AddToken("a");
    builder_.AddToken(" b");
    builder_.AddToken("\xc3\xa9");
    builder_.AddToken("\xe2\x82");  // two thirds of a character
    builder_.AddToken("\xac");      // and the rest
    builder_.AddToken("\n");
    builder_.AddToken("the");
    builder_.AddToken("\"");
  }

  void AddLayer() {
    const auto value = [&](const char* name, const char* dtype, const char* rows,
                           uint64_t columns) {
      return builder_.AddValue(name, dtype, rows, columns);
    };
    const Operand hidden = value("hidden", "f32", "tokens", kHidden);
    const Operand norm = value("norm", "f32", "tokens", kHidden);
    const Operand qkv = value("qkv", "f32", "tokens", (kHeads + 2 * kKvHeads) * kHeadDim);
    const Operand context = value("context", "f32", "tokens", kHeads * kHeadDim);
    const Operand mlp_norm = value("mlp_norm", "bf16", "tokens", kHidden);
    const Operand gate_up = value("gate_up", "f32", "tokens", 2 * kIntermediate);
    const Operand act = value("act", "f32", "tokens", kIntermediate);
    const Operand last = value("last", "f32", "logits", kHidden);
    const Operand last_norm = value("last_norm", "i8", "logits", kHidden);
    const Operand logits = value("logits", "f32", "logits", kVocab);
    constexpr Operand kAbsent = Builder::kAbsent;
    const double epsilon = 1e-5;

    builder_.AddStep("embed", {Rows("embed", {kVocab, kHidden}), kAbsent}, {hidden});
    builder_.AddStep("rms_norm", {hidden, Rows("layers.0.input_norm", {kHidden})}, {norm},
                     {{"epsilon", epsilon}});
    builder_.AddStep(
        "linear",
        {norm, PackedF32("layers.0.qkv", (kHeads + 2 * kKvHeads) * kHeadDim, kHidden), kAbsent,
         Rows("layers.0.qkv.bias", {(kHeads + 2 * kKvHeads) * kHeadDim}), kAbsent},
        {qkv}, {{"accumulate", int64_t{0}}});
    const Operand inv_freq = Rows("inv_freq", {kHeadDim / 2});
    builder_.AddStep("kv_append", {qkv, inv_freq, kAbsent, kAbsent, kAbsent}, {qkv},
                     {{"epsilon", epsilon}, {"layer", int64_t{0}}, {"rope_scale", 1.0}}, 3);
    builder_.AddStep("paged_attention", {qkv, inv_freq, kAbsent, kAbsent, kAbsent, kAbsent},
                     {context},
                     {{"epsilon", epsilon},
                      {"layer", int64_t{0}},
                      {"rope_scale", 1.0},
                      {"scale", 0.35355339059327379},
                      {"sliding_window", int64_t{0}}},
                     3);
    builder_.AddStep(
        "linear",
        {context, PackedF32("layers.0.o", kHidden, kHeads * kHeadDim), kAbsent, kAbsent, kAbsent},
        {hidden}, {{"accumulate", int64_t{1}}});
    builder_.AddStep("rms_norm", {hidden, Rows("layers.0.mlp_norm", {kHidden})}, {mlp_norm},
                     {{"epsilon", epsilon}});
    builder_.AddStep("linear",
                     {mlp_norm, PackedBf16("layers.0.gate_up", 2 * kIntermediate, kHidden), kAbsent,
                      kAbsent, kAbsent},
                     {gate_up}, {{"accumulate", int64_t{0}}});
    builder_.AddStep("silu_mul", {gate_up}, {act});
    builder_.AddStep(
        "linear",
        {act, PackedF32("layers.0.down", kHidden, kIntermediate), kAbsent, kAbsent, kAbsent},
        {hidden}, {{"accumulate", int64_t{1}}});
    builder_.AddStep("gather_rows", {hidden}, {last});
    builder_.AddStep("rms_norm", {last, Rows("final_norm", {kHidden})}, {last_norm},
                     {{"epsilon", epsilon}});
    AddLmHead(last_norm, logits);
  }

  void AddLmHead(Operand x, Operand logits) {
    const Operand weight = PackedInt8("lm_head", kVocab, kHidden);
    const uint64_t tensor = num_tensors_ - 1;
    const Operand scale = Rows("lm_head.scale", {kVocab});
    AlignedBytes sums;
    for (uint64_t n = 0; n < kVocab; ++n) {
      int32_t sum = 0;
      for (uint64_t k = 0; k < kHidden; ++k) sum += TinyInt8Weight(tensor, n, k);
      Append(sums, sum);
    }
    const Operand column_sums =
        builder_.AddTensor("lm_head.column_sums", "i32", "rows", {kVocab}, sums);
    ++num_tensors_;
    builder_.AddStep("linear", {x, weight, scale, Builder::kAbsent, column_sums}, {logits},
                     {{"accumulate", int64_t{0}}});
  }

  // f32, of rank 1 or 2.
  Operand Rows(const std::string& name, std::vector<uint64_t> shape) {
    AlignedBytes bytes;
    const uint64_t columns = shape.size() == 1 ? 1 : shape[1];
    for (uint64_t n = 0; n < shape[0]; ++n) {
      for (uint64_t k = 0; k < columns; ++k) Append(bytes, TinyWeight(num_tensors_, n, k));
    }
    ++num_tensors_;
    return builder_.AddTensor(name, "f32", "rows", std::move(shape), bytes);
  }

  Operand PackedF32(const std::string& name, uint64_t rows, uint64_t depth) {
    return Packed(name, "f32", "n16k1", 1, rows, depth,
                  [&](uint64_t n, uint64_t k) { return TinyWeight(num_tensors_, n, k); });
  }
  Operand PackedBf16(const std::string& name, uint64_t rows, uint64_t depth) {
    return Packed(name, "bf16", "n16k2", 2, rows, depth, [&](uint64_t n, uint64_t k) {
      return static_cast<uint16_t>(std::bit_cast<uint32_t>(TinyWeight(num_tensors_, n, k)) >> 16);
    });
  }
  Operand PackedInt8(const std::string& name, uint64_t rows, uint64_t depth) {
    return Packed(name, "i8", "n16k4", 4, rows, depth,
                  [&](uint64_t n, uint64_t k) { return TinyInt8Weight(num_tensors_, n, k); });
  }

  // Walks panels, groups, channels and elements of a group in the order of the file.
  template <class Element>
  Operand Packed(const std::string& name, const std::string& dtype, const std::string& layout,
                 uint64_t group, uint64_t rows, uint64_t depth, Element element) {
    AlignedBytes bytes;
    for (uint64_t panel = 0; panel < rows; panel += 16) {
      for (uint64_t first = 0; first < depth; first += group) {
        for (uint64_t n = panel; n < panel + 16; ++n) {
          for (uint64_t k = first; k < first + group; ++k) {
            using Type = decltype(element(n, k));
            Append(bytes, n < rows && k < depth ? element(n, k) : Type{});
          }
        }
      }
    }
    ++num_tensors_;
    return builder_.AddTensor(name, dtype, layout, {rows, depth}, bytes);
  }

  Builder builder_;
  uint64_t num_tensors_ = 0;
};

}  // namespace enginery::test
