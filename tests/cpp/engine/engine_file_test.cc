// SPDX-License-Identifier: Apache-2.0
//
// What a valid file holds is what is read.
#include "engine/engine_file.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>

#include "check.h"
#include "engine/describe.h"
#include "support/temp_dir.h"
#include "support/tiny_engine.h"

namespace enginery::test {
namespace {

TEST(the_header_is_read) {
  TinyEngine tiny(4, 3);
  const AlignedBytes file = tiny.Build();
  const Header header = EngineFile::FromMemory(file, "x")->header();
  CHECK_EQ(header.format_version, 1u);
  CHECK_EQ(header.file_bytes, file.size());
  CHECK_EQ(header.num_sections, 3u);
  CHECK_EQ(header.target, "cpu");
  CHECK_EQ(header.sku, "cpu");
  CHECK_EQ(header.variant, "x86-64");
  CHECK_EQ(header.builder_version, "0.1.0");
  CHECK_EQ(header.tp_size, 4u);
  CHECK_EQ(header.tp_rank, 3u);
}

TEST(the_program_is_read) {
  const AlignedBytes file = TinyEngine().Build();
  const auto engine = EngineFile::FromMemory(file, "x");
  const Program& program = engine->program();
  REQUIRE_EQ(program.tensors.size(), 13u);
  REQUIRE_EQ(program.values.size(), 10u);
  REQUIRE_EQ(program.steps.size(), 13u);
  CHECK(std::get<std::vector<double>>(program.attributes.at("x_floats")) ==
        (std::vector<double>{0.5, -1e-5, 1e300}));

  const Value& mlp_norm = program.values[4];
  CHECK_EQ(mlp_norm.name, "mlp_norm");
  CHECK_EQ(mlp_norm.dtype, DType::kBF16);
  CHECK_EQ(mlp_norm.rows, Rows::kTokens);
  CHECK_EQ(mlp_norm.columns, 16u);
  CHECK_EQ(program.values[9].rows, Rows::kLogits);

  const Step& qkv = program.steps[2];
  CHECK_EQ(qkv.op, "linear");
  CHECK_EQ(qkv.version, 1u);
  REQUIRE_EQ(qkv.inputs.size(), 5u);
  REQUIRE_EQ(qkv.outputs.size(), 1u);
  CHECK_EQ(qkv.inputs[0].kind, Operand::Kind::kValue);
  CHECK_EQ(program.values[qkv.inputs[0].index].name, "norm");
  CHECK_EQ(qkv.inputs[1].kind, Operand::Kind::kTensor);
  CHECK_EQ(program.tensors[qkv.inputs[1].index].name, "layers.0.qkv");
  CHECK_EQ(qkv.inputs[2].kind, Operand::Kind::kAbsent);
  CHECK_EQ(GetInt(qkv.attributes, "accumulate", 0, 1, "linear"), 0);
  CHECK_EQ(GetFloat(program.steps[1].attributes, "epsilon", "rms_norm"), 1e-5);
}

TEST(tensors_are_used_in_place) {
  const AlignedBytes file = TinyEngine().Build();
  const auto engine = EngineFile::FromMemory(file, "x");
  for (const Tensor& tensor : engine->program().tensors) {
    CHECK_EQ(reinterpret_cast<uintptr_t>(tensor.data) % 64, 0u);
    CHECK_GE(tensor.data, file.data());
    CHECK_LE(tensor.data + tensor.bytes, file.data() + file.size());
  }
  // Element [n][k] of n16k4 stands at (((n / 16) * ceil(K / 4) + k / 4) * 16 + n % 16) * 4 + k % 4.
  const Tensor& lm_head = engine->program().tensors[10];
  CHECK_EQ(lm_head.name, "lm_head");
  CHECK_EQ(lm_head.layout, Layout::kN16K4);
  CHECK_EQ(lm_head.dtype, DType::kI8);
  for (const uint64_t n : {0, 7, 10}) {
    for (const uint64_t k : {0, 3, 5, 15}) {
      const auto element =
          static_cast<int8_t>(lm_head.data[((n / 16 * 4 + k / 4) * 16 + n % 16) * 4 + k % 4]);
      CHECK_EQ(element, TinyInt8Weight(10, n, k));
    }
  }
  CHECK_EQ(static_cast<int>(lm_head.data[11 * 4]), 0);  // padding
}

TEST(the_model_config_is_read) {
  const AlignedBytes file = TinyEngine().Build();
  const auto engine = EngineFile::FromMemory(file, "x");
  const ModelConfig& config = engine->config();
  CHECK_EQ(config.architecture, "LlamaForCausalLM");
  CHECK_EQ(config.dtype, "float32");
  CHECK_EQ(config.qformat, "none");
  CHECK_EQ(config.kv_cache_dtype, "float32");
  CHECK_EQ(config.vocab_size, 11);
  CHECK_EQ(config.hidden_size, 16);
  CHECK_EQ(config.num_layers, 1);
  CHECK_EQ(config.num_heads, 2);
  CHECK_EQ(config.num_kv_heads, 1);
  CHECK_EQ(config.head_dim, 8);
  CHECK_EQ(config.max_batch_size, 4);
  CHECK_EQ(config.max_num_tokens, 16);
  CHECK_EQ(config.max_seq_len, 32);
  CHECK_EQ(config.max_input_len, 24);
  CHECK_EQ(config.tokens_per_block, 4);
  CHECK_EQ(config.bos_token_id, 0);
  CHECK_EQ(config.pad_token_id, -1);
  CHECK(config.eos_token_ids == std::vector<int64_t>{1});
  CHECK_EQ(KvBytesPerToken(config, "tensorrt"), 2u * 1 * 8 * 4);
  CHECK_EQ(KvBytesPerToken(config, "cpu"), 1u * (8 + 16) * 4);  // V padded to 16 columns
}

TEST(the_token_bytes_are_read) {
  const AlignedBytes file = TinyEngine().Build();
  const auto engine = EngineFile::FromMemory(file, "x");
  const TokenBytes& tokens = engine->token_bytes();
  REQUIRE_EQ(tokens.num_tokens(), 11u);
  CHECK_EQ(tokens.bytes(0), "<s>");
  CHECK(tokens.is_special(1));
  CHECK(!tokens.is_special(2));
  CHECK_EQ(tokens.bytes(2), "");
  CHECK_EQ(tokens.bytes(6), "\xe2\x82");
  CHECK_EQ(tokens.bytes(10), "\"");
}

// Weights are used where they lie: opening must cost the same whatever their size. Here they may
// not even be read.
TEST(opening_touches_no_weights) {
  TinyEngine tiny;
  tiny.builder().weights_alignment = 4096;
  const AlignedBytes file = tiny.Build();
  const uint64_t weights = Get<uint64_t>(file, 256 + 2 * 128 + 48);
  REQUIRE_EQ(weights % 4096, 0u);
  void* const memory =
      mmap(nullptr, file.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  std::memcpy(memory, file.data(), file.size());
  std::byte* const bytes = static_cast<std::byte*>(memory);
  REQUIRE_EQ(mprotect(bytes + weights, file.size() - weights, PROT_NONE), 0);
  const auto engine = EngineFile::FromMemory({bytes, file.size()}, "x");
  CHECK_EQ(engine->program().tensors[0].data, bytes + weights);
  CHECK(!DescribeJson(*engine).empty());
  munmap(memory, file.size());
}

TEST(an_engine_without_weights_is_read) {
  EngineBuilder builder;
  builder.attributes = TinyEngine().builder().attributes;
  for (int i = 0; i < 11; ++i) builder.AddToken("t");
  const AlignedBytes file = builder.Build();
  const auto engine = EngineFile::FromMemory(file, "x");
  CHECK(engine->program().steps.empty());
  CHECK_EQ(engine->weight_bytes(), 0u);
  engine->Verify([](uint64_t) {});
}

TEST(memory_that_is_not_aligned_is_refused) {
  AlignedBytes file = TinyEngine().Build();
  CHECK_THROWS_WITH(EngineFile::FromMemory(ByteSpan(file).subspan(8), "x"), Error, "aligned to 64");
}

TEST(a_file_is_read_as_memory_is) {
  const TempDir dir;
  const AlignedBytes bytes = TinyEngine().Build();
  const std::string path = dir.Write("rank0.engine", bytes);
  const auto engine = EngineFile::Open(path);
  CHECK_EQ(engine->name(), path);
  CHECK_EQ(DescribeJson(*engine), DescribeJson(*EngineFile::FromMemory(bytes, "x")));
}

}  // namespace
}  // namespace enginery::test
