// SPDX-License-Identifier: Apache-2.0
//
// An engine for target tensorrt in a few KB: one layer cut into segments, with the dtypes that only
// this target has. The reader does not look into the archives, so they are empty ones.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "support/engine_builder.h"
#include "support/tiny_engine.h"

namespace enginery::test {

class TinyTensorrtEngine {
 public:
  static constexpr uint64_t kVocab = 11, kHidden = 16, kHeads = 2, kKvHeads = 1, kHeadDim = 8,
                            kIntermediate = 24;
  using Builder = EngineBuilder;
  using Operand = Builder::Operand;

  TinyTensorrtEngine() {
    builder_.target = "tensorrt";
    builder_.sku = "several";
    builder_.variant = "segments";
    builder_.attributes = TinyEngine().builder().attributes;
    for (auto& [name, value] : builder_.attributes) {
      if (name == "dtype") value = "float16";
      if (name == "kv_cache_dtype") value = "fp8";
      if (name == "qformat") value = "fp8";
    }
    for (uint64_t id = 0; id < kVocab; ++id) {
      builder_.AddToken(std::string(1, static_cast<char>('a' + id)), id < 2 ? 1 : 0);
    }
    AddLayer();
    builder_.extra_sections = {{"segments", EmptyArchive(), 64, 0},
                               {"sku.a100", EmptyArchive(), 64, 0},
                               {"sku.h200", EmptyArchive(), 64, 0}};
  }
  Builder& builder() { return builder_; }
  AlignedBytes Build() { return builder_.Build(); }

 private:
  // The end-of-central-directory record of a ZIP archive without members.
  static AlignedBytes EmptyArchive() {
    AlignedBytes bytes;
    AppendText(bytes, "PK\5\6", 22);
    return bytes;
  }

  Operand Tensor(const std::string& name, const std::string& dtype, std::vector<uint64_t> shape,
                 uint64_t bits) {
    uint64_t num_bytes = bits;
    for (const uint64_t size : shape) num_bytes *= size;
    AlignedBytes bytes(num_bytes / 8);
    for (size_t i = 0; i < bytes.size(); ++i) {
      Put(bytes, i, static_cast<uint8_t>(num_tensors_ * 31 + i * 7));
    }
    ++num_tensors_;
    return builder_.AddTensor(name, dtype, "rows", std::move(shape), bytes);
  }
  Operand F32(const std::string& name, uint64_t size) { return Tensor(name, "f32", {size}, 32); }

  // A weight of scheme fp8 with what belongs to it, in the order that segments take them.
  void AddFp8(std::vector<Operand>& inputs, const std::string& name, uint64_t n, uint64_t k) {
    inputs.push_back(F32(name + ".inverse", 1));
    inputs.push_back(Tensor(name, "f8e4m3", {n, k}, 8));
    inputs.push_back(F32(name + ".scale", n));
  }

  void AddLayer() {
    constexpr Operand kAbsent = Builder::kAbsent;
    const uint64_t qkv_width = (kHeads + 2 * kKvHeads) * kHeadDim;
    const Operand x0 = builder_.AddValue("x.0", "f32", "tokens", kHidden);
    const Operand x1 = builder_.AddValue("x.1", "f32", "tokens", kHidden);
    const Operand qkv = builder_.AddValue("qkv", "f16", "tokens", qkv_width);
    const Operand attention = builder_.AddValue("attention", "f16", "tokens", kHeads * kHeadDim);
    const Operand last = builder_.AddValue("last", "f32", "logits", kHidden);
    const Operand logits = builder_.AddValue("logits", "f32", "logits", kVocab);

    builder_.AddStep("embed", {Tensor("embed", "f16", {kVocab, kHidden}, 16), kAbsent}, {x0});
    std::vector<Operand> first = {x0, F32("layers.0.input_norm", kHidden)};
    AddFp8(first, "layers.0.qkv", qkv_width, kHidden);
    builder_.AddStep("run_segment", first, {qkv}, {{"segment", "first"}});
    const Operand k_scale = F32("layers.0.k_scale", 1);
    const Operand v_scale = F32("layers.0.v_scale", 1);
    builder_.AddStep("kv_append",
                     {qkv, F32("inv_freq", kHeadDim / 2), kAbsent, kAbsent, k_scale, v_scale},
                     {qkv}, {{"epsilon", 1e-5}, {"layer", int64_t{0}}, {"rope_scale", 1.0}});
    builder_.AddStep(
        "paged_attention", {qkv, k_scale, v_scale}, {attention},
        {{"layer", int64_t{0}}, {"scale", 0.35355339059327379}, {"sliding_window", int64_t{0}}});
    std::vector<Operand> output = {x0, attention};
    AddFp8(output, "layers.0.o", kHidden, kHeads * kHeadDim);
    output.push_back(F32("layers.0.mlp_norm", kHidden));
    AddFp8(output, "layers.0.gate_up", 2 * kIntermediate, kHidden);
    // Another scheme than its neighbours', for the sake of the dtype.
    output.push_back(Tensor("layers.0.down", "i4", {kHidden, kIntermediate}, 4));
    output.push_back(Tensor("layers.0.down.scale", "bf16", {kHidden, 1}, 16));
    builder_.AddStep("run_segment", output, {x1}, {{"segment", "last"}});
    builder_.AddStep("gather_rows", {x1}, {last});
    builder_.AddStep(
        "run_segment",
        {last, F32("final_norm", kHidden), Tensor("lm_head", "f16", {kVocab, kHidden}, 16)},
        {logits}, {{"segment", "head"}});
  }

  Builder builder_;
  uint64_t num_tensors_ = 0;
};

}  // namespace enginery::test
