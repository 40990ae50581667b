// SPDX-License-Identifier: Apache-2.0
//
// Engine files whose program lies: counts, references, records and attributes, with right hashes.
#include <cstdint>
#include <limits>

#include "support/refusal.h"

namespace enginery::test {
namespace {

constexpr enginery_status kProgram = ENGINERY_INVALID_PROGRAM;
constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();

using Place = size_t (FileMap::*)(size_t) const;

// A row that writes `value` at byte `at` of record `index` of a table.
template <class T>
Refusal RecordSets(const char* name, Place place, size_t index, size_t at, T value,
                   const char* message_part, enginery_status status = kProgram) {
  return Sets<T>(
      name, [=](const FileMap& map) { return (map.*place)(index) + at; }, value, status,
      message_part);
}

template <class T>
Refusal ProgramSets(const char* name, size_t at, T value, const char* message_part,
                    enginery_status status = kProgram) {
  return Sets<T>(
      name, [=](const FileMap& map) { return map.program + at; }, value, status, message_part);
}

// Copies `size` bytes of record `from` of a table over record `to`.
Refusal Copies(const char* name, Place place, size_t from, size_t to, size_t size,
               enginery_status status, const char* message_part) {
  return {name,
          [=](AlignedBytes& file, const FileMap& map) {
            for (size_t i = 0; i < size; ++i) {
              Put(file, (map.*place)(to) + i, Get<char>(file, (map.*place)(from) + i));
            }
          },
          status, message_part};
}

TEST(program_header_is_checked) {
  CheckRefusals({
      ProgramSets<uint32_t>("magic", 0, 0x4D475251, "program.magic is"),
      ProgramSets<uint32_t>("version 0", 4, 0, "program_version is 0",
                            ENGINERY_UNSUPPORTED_VERSION),
      ProgramSets<uint32_t>("version 2", 4, 2, "program_version is 2",
                            ENGINERY_UNSUPPORTED_VERSION),
      ProgramSets<uint32_t>("more attributes than there are", 8, 1000, "num_attributes is 1000"),
      ProgramSets<uint32_t>("num_attributes above 2^20", 8, (1 << 20) + 1,
                            "num_attributes is 1048577; accepted: 0..1048576"),
      ProgramSets<uint32_t>("total_attributes above 2^20", 12, 0xffffffff,
                            "total_attributes is 4294967295"),
      ProgramSets<uint32_t>("num_tensors above 2^20", 16, 0xffffffff, "num_tensors is 4294967295"),
      ProgramSets<uint32_t>("num_values above 2^20", 20, 0x80000000, "num_values is 2147483648"),
      ProgramSets<uint32_t>("num_steps above 2^20", 24, (1 << 20) + 1, "num_steps is 1048577"),
      ProgramSets<uint32_t>("num_operands above 2^20", 28, 0xffffffff,
                            "num_operands is 4294967295"),
      ProgramSets<uint32_t>("one tensor more", 16, 14, "but the counts in its header need"),
      ProgramSets<uint32_t>("as many tensors as allowed", 16, 1 << 20,
                            "but the counts in its header need"),
      ProgramSets<uint32_t>("one step less", 24, 12, "but the counts in its header need"),
      ProgramSets<uint64_t>("string_bytes not padded", 32, 13,
                            "string_bytes is 13; accepted: a multiple of 8"),
      ProgramSets<uint64_t>("string_bytes wraps", 32, kHuge - 7, "string_bytes is"),
      ProgramSets<uint64_t>("array_bytes wraps", 40, kHuge - 7, "array_bytes is"),
      ProgramSets<uint64_t>("array_bytes too small", 40, 8, "but the counts in its header need"),
      ProgramSets<uint32_t>("reserved", 60, 1, "the bytes 48..63 of its header"),
  });
}

TEST(a_program_too_short_for_its_header_is_refused) {
  for (const uint64_t bytes : {0, 8, 63}) {
    AlignedBytes file = TinyEngine().Build();
    Put<uint64_t>(file, FileMap::SectionEntry(0) + 56, bytes);
    Rehash(file);
    CheckRefused("short", file, kProgram, "the section's size is " + std::to_string(bytes));
  }
}

TEST(attribute_records_are_checked) {
  // Attribute 0 is the string architecture, 1 the int bos_token_id, 3 an int array, 18 a float
  // array, 19 a float of step 1.
  constexpr Place kAt = &FileMap::Attribute;
  CheckRefusals({
      RecordSets<uint32_t>("name beyond the strings", kAt, 0, 0, 1 << 30,
                           "attributes[0].name is the string at 1073741824"),
      RecordSets<uint32_t>("name's length wraps", kAt, 0, 4, 0xffffffff, "of length 4294967295"),
      RecordSets<uint32_t>("name is empty", kAt, 0, 4, 0, "attributes[0].name is \"\""),
      RecordSets<uint32_t>("type 0", kAt, 1, 8, 0, "type is 0; accepted: 1..5"),
      RecordSets<uint32_t>("type 6", kAt, 1, 8, 6, "type is 6; accepted: 1..5"),
      RecordSets<uint32_t>("word at 12", kAt, 1, 12, 1, "the word at 12 is 1"),
      RecordSets<uint64_t>("count of a number", kAt, 1, 24, 2, "count is 2; accepted: 1"),
      RecordSets<uint64_t>("count 0 of a number", kAt, 1, 24, 0, "count is 0; accepted: 1"),
      RecordSets<uint32_t>("string value beyond the strings", kAt, 0, 16, 0xfffffff0,
                           "\"architecture\" is the string at"),
      RecordSets<uint64_t>("array beyond the arrays", kAt, 3, 16, 1 << 20,
                           "\"eos_token_ids\" is the array at 1048576"),
      RecordSets<uint64_t>("array offset wraps", kAt, 3, 16, kHuge - 7,
                           "\"eos_token_ids\" is the array at"),
      RecordSets<uint64_t>("array offset not aligned", kAt, 3, 16, 4,
                           "\"eos_token_ids\" is the array at 4"),
      RecordSets<uint64_t>("array count too large", kAt, 3, 24, 5, "of 5 elements"),
      RecordSets<uint64_t>("array count wraps in bytes", kAt, 3, 24, uint64_t{1} << 61,
                           "of 2305843009213693952 elements"),
      RecordSets<double>("float is NaN", kAt, 19, 16, std::numeric_limits<double>::quiet_NaN(),
                         "\"epsilon\" is nan; accepted: finite numbers"),
      RecordSets<double>("float is infinite", kAt, 19, 16, std::numeric_limits<double>::infinity(),
                         "\"epsilon\" is inf; accepted: finite numbers"),
      {"an element of a float array is NaN",
       [](AlignedBytes& file, const FileMap& map) {
         Put(file, map.arrays + 16, std::numeric_limits<double>::quiet_NaN());
       },
       kProgram, "\"x_floats\": an element is nan"},
      Copies("a name twice in the program", kAt, 1, 2, 8, kProgram,
             "program has attribute \"bos_token_id\" twice"),
      {"a string that is not UTF-8",
       [](AlignedBytes& file, const FileMap& map) { Put<uint8_t>(file, map.strings, 0xff); },
       kProgram, "accepted: UTF-8 without zero bytes"},
      {"a string with a zero byte",
       [](AlignedBytes& file, const FileMap& map) { Put<uint8_t>(file, map.strings + 1, 0); },
       kProgram, "accepted: UTF-8 without zero bytes"},
  });
}

// The values that the runtime lives by; each is out of its range.
TEST(program_attributes_are_checked) {
  using Attribute = EngineBuilder::Attribute;
  struct Row {
    const char* name;
    Attribute value;
    const char* message_part;
  };
  const std::vector<Row> rows = {
      {"architecture", int64_t{1}, "\"architecture\" has another type; accepted: string"},
      {"dtype", "fp8", "\"dtype\" is \"fp8\"; accepted: float32, bfloat16, float16"},
      {"qformat", "int4",
       "\"qformat\" is \"int4\"; accepted: none, int8_wo, int8_dynamic, w4a8_dynamic, int8_sq, "
       "int4_wo, int4_awq, w4a8_awq, fp8"},
      {"kv_cache_dtype", "f16",
       "\"kv_cache_dtype\" is \"f16\"; accepted: float32, bfloat16, float16, fp8, int8"},
      {"kv_cache_dtype", "", "\"kv_cache_dtype\" is \"\""},
      {"vocab_size", int64_t{0}, "\"vocab_size\" is 0; accepted: 1..16777216"},
      {"vocab_size", int64_t{-1}, "\"vocab_size\" is -1"},
      {"vocab_size", 11.0, "\"vocab_size\" has another type; accepted: i64"},
      {"hidden_size", int64_t{1} << 40, "\"hidden_size\" is 1099511627776"},
      {"num_layers", int64_t{0}, "\"num_layers\" is 0"},
      {"num_heads", std::numeric_limits<int64_t>::min(), "\"num_heads\" is -9223372036854775808"},
      {"num_kv_heads", int64_t{3}, "\"num_kv_heads\" is 3; accepted: 1..2"},
      {"num_heads", int64_t{0}, "\"num_heads\" is 0"},
      {"head_dim", int64_t{65537}, "\"head_dim\" is 65537; accepted: 1..65536"},
      {"max_batch_size", int64_t{0}, "\"max_batch_size\" is 0"},
      {"max_num_tokens", int64_t{1} << 31, "\"max_num_tokens\" is 2147483648"},
      {"max_seq_len", std::numeric_limits<int64_t>::max(),
       "\"max_seq_len\" is 9223372036854775807"},
      {"max_input_len", int64_t{33}, "\"max_input_len\" is 33; accepted: 1..32"},
      {"tokens_per_block", int64_t{0}, "\"tokens_per_block\" is 0"},
      {"bos_token_id", int64_t{11}, "\"bos_token_id\" is 11; accepted: -1..10"},
      {"pad_token_id", int64_t{-2}, "\"pad_token_id\" is -2; accepted: -1..10"},
      {"eos_token_ids", std::vector<int64_t>{1, 11},
       "\"eos_token_ids\": an element is 11; accepted: 0..10"},
      {"eos_token_ids", std::vector<int64_t>{-1}, "\"eos_token_ids\": an element is -1"},
      {"eos_token_ids", int64_t{1}, "\"eos_token_ids\" has another type; accepted: i64 array"},
  };
  for (const Row& row : rows) {
    TinyEngine tiny;
    for (auto& [name, value] : tiny.builder().attributes) {
      if (name == row.name) value = row.value;
    }
    const AlignedBytes file = tiny.Build();
    CheckRefused(row.name, file, kProgram, row.message_part);
  }
}

TEST(heads_must_be_shared_evenly) {
  TinyEngine tiny;
  for (auto& [name, value] : tiny.builder().attributes) {
    if (name == "num_heads") value = int64_t{5};
    if (name == "num_kv_heads") value = int64_t{2};
  }
  const AlignedBytes file = tiny.Build();
  CheckRefused("5 heads, 2 kv heads", file, kProgram, "a divisor of num_heads, 5");
}

TEST(every_program_attribute_is_required) {
  const size_t num_attributes = TinyEngine().builder().attributes.size();
  for (size_t i = 0; i + 1 < num_attributes; ++i) {  // the last one is ours
    TinyEngine tiny;
    auto& attributes = tiny.builder().attributes;
    const std::string name = attributes[i].first;
    attributes.erase(attributes.begin() + static_cast<std::ptrdiff_t>(i));
    const AlignedBytes file = tiny.Build();
    CheckRefused(name, file, kProgram, "\"" + name + "\" is missing");
  }
}

TEST(tensor_records_are_checked) {
  // Tensor 0 is embed, f32 rows [11, 16]; 2 is layers.0.qkv, n16k1 [32, 16].
  constexpr Place kAt = &FileMap::Tensor;
  constexpr enginery_status kTensor = ENGINERY_INVALID_TENSOR;
  CheckRefusals({
      RecordSets<uint32_t>("name beyond the strings", kAt, 0, 0, 1 << 30,
                           "tensors[0].name is the string at", kTensor),
      RecordSets<uint32_t>("name is empty", kAt, 0, 4, 0, "tensors[0].name is \"\"", kTensor),
      RecordSets<uint32_t>("dtype cut short", kAt, 0, 12, 1,
                           "dtype is \"f\"; accepted: f32, bf16, f16, i8, i32, f8e4m3, i4",
                           kTensor),
      RecordSets<uint32_t>("dtype beyond the strings", kAt, 0, 8, 0xffffffff,
                           "dtype is the string at 4294967295", kTensor),
      RecordSets<uint32_t>("layout cut short", kAt, 2, 20, 3,
                           "layout is \"n16\"; accepted: rows, n16k1, n16k2, n16k4, n16k8",
                           kTensor),
      RecordSets<uint32_t>("rank 0", kAt, 0, 24, 0, "rank is 0; accepted: 1..4", kTensor),
      RecordSets<uint32_t>("rank 5", kAt, 0, 24, 5, "rank is 5; accepted: 1..4", kTensor),
      RecordSets<uint32_t>("rank wraps", kAt, 0, 24, 0xffffffff, "rank is 4294967295", kTensor),
      RecordSets<uint32_t>("rank 1 of a packed tensor", kAt, 2, 24, 1,
                           "rank of a packed tensor is 1; accepted: 2", kTensor),
      RecordSets<uint32_t>("section 3 of 3", kAt, 0, 28, 3, "section is 3; accepted: 0..2",
                           kTensor),
      RecordSets<uint32_t>("section wraps", kAt, 0, 28, 0xffffffff, "section is 4294967295",
                           kTensor),
      RecordSets<uint32_t>("a section that is too small", kAt, 0, 28, 1,
                           "reach beyond section \"token_bytes\" of 96 bytes", kTensor),
      RecordSets<uint64_t>("offset not aligned", kAt, 0, 32, 32,
                           "offset is 32; accepted: a multiple of 64", kTensor),
      RecordSets<uint64_t>("offset beyond the section", kAt, 0, 32, 1 << 20,
                           "reach beyond section \"weights\"", kTensor),
      RecordSets<uint64_t>("offset wraps", kAt, 0, 32, kHuge - 63,
                           "reach beyond section \"weights\"", kTensor),
      RecordSets<uint64_t>("bytes too small", kAt, 0, 40, 700, "bytes is 700; accepted: 704",
                           kTensor),
      RecordSets<uint64_t>("bytes too large", kAt, 0, 40, kHuge,
                           "bytes is 18446744073709551615; accepted: 704", kTensor),
      RecordSets<uint64_t>("bytes without padding", kAt, 10, 40, 11 * 16,
                           "bytes is 176; accepted: 256", kTensor),
      RecordSets<uint64_t>("shape[0] is 0", kAt, 0, 48, 0, "shape[0] is 0; accepted: at least 1",
                           kTensor),
      RecordSets<uint64_t>("shape larger than bytes", kAt, 0, 56, 17, "bytes is 704; accepted: 748",
                           kTensor),
      RecordSets<uint64_t>("size of the shape wraps", kAt, 0, 48, uint64_t{1} << 58,
                           "a shape whose size fits 64 bits", kTensor),
      RecordSets<uint64_t>("panels of the shape wrap", kAt, 2, 48, kHuge,
                           "a shape whose size fits 64 bits", kTensor),
      RecordSets<uint64_t>("groups of the shape wrap", kAt, 10, 56, kHuge - 1,
                           "a shape whose size fits 64 bits", kTensor),
      RecordSets<uint64_t>("unused shape", kAt, 0, 64, 1, "unused shape[2] is 1; accepted: 0",
                           kTensor),
      RecordSets<uint32_t>("reserved, first", kAt, 0, 80, 1, "the bytes 80..95", kTensor),
      RecordSets<uint32_t>("reserved, last", kAt, 0, 92, 1, "the bytes 80..95", kTensor),
      Copies("a name twice", kAt, 0, 1, 8, kTensor, "\"embed\" is the name of two tensors"),
  });
}

// Rows of i4 begin at whole bytes, and panels of i4 hold nothing else.
TEST(int4_tensors_are_checked) {
  struct Row {
    const char* layout;
    std::vector<uint64_t> shape;
    size_t num_bytes;
    const char* message_part;
    const char* dtype = "i4";
  };
  const std::vector<Row> rows = {
      {"rows", {3, 5}, 8, "last dimension of i4 is 5; accepted: even sizes"},
      {"rows", {7}, 4, "last dimension of i4 is 7; accepted: even sizes"},
      {"rows", {3, 6}, 18, "bytes is 18; accepted: 9,"},
      {"rows", {3, 6}, 8, "bytes is 8; accepted: 9,"},
      {"rows", {kHuge - 1, 4}, 0, "a shape whose size fits 64 bits"},
      {"n16k4", {3, 6}, 128, "layout of i4 is \"n16k4\"; accepted: rows, n16k8"},
      {"n16k2", {16, 2}, 16, "layout of i4 is \"n16k2\"; accepted: rows, n16k8"},
      {"n16k8", {16}, 64, "rank of a packed tensor is 1; accepted: 2"},
      {"n16k8", {17, 9}, 128, "bytes is 128; accepted: 256,"},
      {"n16k8", {17, 9}, 77, "bytes is 77; accepted: 256,"},
      {"n16k8", {16, 8}, 128, "bytes is 128; accepted: 64,"},
      {"n16k8", {1, kHuge}, 0, "a shape whose size fits 64 bits"},
      {"n16k8", {kHuge, 1}, 0, "a shape whose size fits 64 bits"},
      {"n16k8", {uint64_t{1} << 32, uint64_t{1} << 33}, 0, "a shape whose size fits 64 bits"},
      {"n16k8", {16, 8}, 128, "dtype in n16k8 is \"i8\"; accepted: i4", "i8"},
      {"n16k8", {16, 8}, 512, "dtype in n16k8 is \"f32\"; accepted: i4", "f32"},
      {"n16k1", {17, 3}, 51, "bytes is 51; accepted: 96,", "i8"},
      {"n16k1", {17, 3}, 384, "bytes is 384; accepted: 96,", "i8"},
  };
  for (const Row& row : rows) {
    TinyEngine tiny;
    tiny.builder().AddTensor("w4", row.dtype, row.layout, row.shape, AlignedBytes(row.num_bytes));
    const AlignedBytes file = tiny.Build();
    CheckRefused(row.message_part, file, ENGINERY_INVALID_TENSOR, row.message_part);
  }
}

TEST(value_records_are_checked) {
  constexpr Place kAt = &FileMap::Value;
  CheckRefusals({
      RecordSets<uint32_t>("name beyond the strings", kAt, 0, 0, 1 << 30,
                           "values[0].name is the string at"),
      RecordSets<uint32_t>("name is empty", kAt, 0, 4, 0, "values[0].name is \"\""),
      RecordSets<uint32_t>("dtype is empty", kAt, 0, 12, 0,
                           "dtype is \"\"; accepted: f32, bf16, f16, i8"),
      RecordSets<uint32_t>("rows cut short", kAt, 0, 20, 5,
                           "rows is \"token\"; accepted: tokens, logits"),
      RecordSets<uint64_t>("no columns", kAt, 0, 24, 0, "columns is 0; accepted: 1..16777216"),
      RecordSets<uint64_t>("too many columns", kAt, 0, 24, (1 << 24) + 1, "columns is 16777217"),
      RecordSets<uint64_t>("columns wrap", kAt, 0, 24, kHuge, "columns is 18446744073709551615"),
      RecordSets<uint32_t>("reserved, first", kAt, 0, 32, 1, "the bytes 32..47"),
      RecordSets<uint32_t>("reserved, last", kAt, 0, 44, 1, "the bytes 32..47"),
      Copies("a name twice", kAt, 0, 1, 8, kProgram, "\"hidden\" is the name of two values"),
      {"a dtype that tensors have and values have not",
       [](AlignedBytes& file, const FileMap& map) {  // i32, of the last tensor
         Put(file, map.Value(0) + 8, Get<uint64_t>(file, map.Tensor(map.num_tensors - 1) + 8));
       },
       kProgram, "dtype is \"i32\"; accepted: f32, bf16, f16, i8"},
  });
}

TEST(step_and_operand_records_are_checked) {
  // Step 0 is embed with operands 0..2, step 1 rms_norm with operands 3..5 and one attribute.
  constexpr Place kStep = &FileMap::Step;
  constexpr Place kOperand = &FileMap::Operand;
  CheckRefusals({
      RecordSets<uint32_t>("op beyond the strings", kStep, 0, 0, 1 << 30,
                           "steps[0].op is the string at"),
      RecordSets<uint32_t>("op is empty", kStep, 0, 4, 0, "steps[0].op is \"\""),
      RecordSets<uint32_t>("operands overlap", kStep, 1, 12, 2, "first_operand is 2; accepted: 3"),
      RecordSets<uint32_t>("a gap in the operands", kStep, 1, 12, 4,
                           "first_operand is 4; accepted: 3"),
      RecordSets<uint32_t>("inputs beyond the operands", kStep, 0, 16, 1000, "num_inputs is 1000"),
      RecordSets<uint32_t>("inputs wrap", kStep, 1, 16, 0xffffffff, "num_inputs is 4294967295"),
      RecordSets<uint32_t>("outputs beyond the operands", kStep, 0, 20, 1000,
                           "num_outputs is 1000"),
      RecordSets<uint32_t>("outputs wrap", kStep, 1, 20, 0xfffffffe, "num_outputs is 4294967294"),
      RecordSets<uint32_t>("one input less", kStep, 0, 16, 1,
                           "operands[1] is an output, but no value"),
      RecordSets<uint32_t>("first attribute is the program's", kStep, 0, 24, 0,
                           "first_attribute is 0; accepted: 19"),
      RecordSets<uint32_t>("a gap in the attributes", kStep, 2, 24, 21,
                           "first_attribute is 21; accepted: 20"),
      RecordSets<uint32_t>("attributes beyond the table", kStep, 1, 28, 1000,
                           "num_attributes is 1000"),
      RecordSets<uint32_t>("attributes wrap", kStep, 1, 28, 0xffffffff,
                           "num_attributes is 4294967295"),
      RecordSets<uint32_t>("reserved, first", kStep, 0, 32, 1, "the bytes 32..47"),
      RecordSets<uint32_t>("reserved, last", kStep, 0, 44, 1, "the bytes 32..47"),
      RecordSets<uint32_t>("operand kind 3", kOperand, 0, 0, 3,
                           "operands[0].kind is 3; accepted: 0..2"),
      RecordSets<uint32_t>("tensor index", kOperand, 0, 4, 13,
                           "operands[0].index is 13; accepted: below 13"),
      RecordSets<uint32_t>("value index", kOperand, 2, 4, 10,
                           "operands[2].index is 10; accepted: below 10"),
      RecordSets<uint32_t>("index wraps", kOperand, 2, 4, 0xffffffff,
                           "operands[2].index is 4294967295"),
      RecordSets<uint32_t>("index of an absent operand", kOperand, 1, 4, 1,
                           "operands[1].index is 1; accepted: below 1"),
      RecordSets<uint32_t>("an output that is a tensor", kOperand, 2, 0, 1,
                           "operands[2] is an output, but no value"),
      RecordSets<uint32_t>("an output that is absent", kOperand, 5, 0, 2, "operands[5]"),
      {"the last step leaves an operand over",
       [](AlignedBytes& file, const FileMap& map) {
         const size_t at = map.Step(map.num_steps - 1) + 20;
         Put<uint32_t>(file, at, Get<uint32_t>(file, at) - 1);
       },
       kProgram, "program.num_operands is"},
      {"the last step leaves an attribute over",
       [](AlignedBytes& file, const FileMap& map) {
         Put<uint32_t>(file, map.Step(map.num_steps - 1) + 28, 0);
       },
       kProgram, "program.total_attributes is"},
      Copies("a name twice in a step", &FileMap::Attribute, 21, 22, 8, kProgram, "twice"),
  });
}

// A small file must not stand for unbounded memory: many names may share one long string.
TEST(shared_strings_and_arrays_are_bounded) {
  TinyEngine strings;
  const std::string longest(1 << 20, 'x');
  for (int i = 0; i < 70; ++i) {
    strings.builder().attributes.emplace_back("s" + std::to_string(i), longest);
  }
  const AlignedBytes many_strings = strings.Build();
  CheckRefused("70 MB of text in 1 MB", many_strings, kProgram,
               "strings are longer than 67108864 bytes in all");

  // 17 arrays of 2^20 elements, all the same one.
  TinyEngine arrays;
  arrays.builder().attributes.emplace_back("z", std::vector<int64_t>(1 << 20, 1));
  for (int i = 0; i < 16; ++i) {
    arrays.builder().attributes.emplace_back("z" + std::to_string(i), std::vector<int64_t>{});
  }
  AlignedBytes many_arrays = arrays.Build();
  const FileMap map(many_arrays);
  for (size_t i = 0; i < 16; ++i) {
    Put(many_arrays, map.Attribute(20 + i) + 16,
        Get<uint64_t>(many_arrays, map.Attribute(19) + 16));
    Put<uint64_t>(many_arrays, map.Attribute(20 + i) + 24, 1 << 20);
  }
  Rehash(many_arrays);
  CheckRefused("17 arrays that are one", many_arrays, kProgram,
               "more than 16777216 elements in all");
}

}  // namespace
}  // namespace enginery::test
