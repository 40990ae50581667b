// SPDX-License-Identifier: Apache-2.0
//
// Writes engine files from docs/engine-format.md alone: it shares nothing with the reader but the
// hash, so that the two check each other.
//
//   EngineBuilder builder;
//   Operand x = builder.AddValue("x", "f32", "tokens", 16);
//   Operand w = builder.AddTensor("w", "f32", "rows", {11, 16}, bytes);
//   builder.AddStep("embed", {w, kAbsent}, {x});
//   AlignedBytes file = builder.Build();
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/sha256.h"
#include "support/aligned_bytes.h"

namespace enginery::test {

// Recomputes every section's hash and the header's checksum, whatever the bytes are: what does not
// lie in the file is left out. So a test can break one field and still get behind the checksums.
inline void Rehash(AlignedBytes& file) {
  constexpr size_t kHeader = 256;
  constexpr size_t kEntry = 128;
  if (file.size() < kHeader) return;
  const size_t num_sections = Get<uint32_t>(file, 24);
  if (num_sections > (file.size() - kHeader) / kEntry) return;
  for (size_t i = 0; i < num_sections; ++i) {
    const size_t entry = kHeader + i * kEntry;
    const uint64_t offset = Get<uint64_t>(file, entry + 48);
    const uint64_t bytes = Get<uint64_t>(file, entry + 56);
    if (offset > file.size() || bytes > file.size() - offset) continue;
    Put(file, entry + 96, Sha256Of(ByteSpan(file).subspan(offset, bytes)));
  }
  Sha256 hash;
  hash.Update(ByteSpan(file).first(224));
  hash.Update(ByteSpan(file).subspan(kHeader, num_sections * kEntry));
  Put(file, 224, hash.Finish());
}

class EngineBuilder {
 public:
  struct Operand {
    uint32_t kind;
    uint32_t index;
  };
  static constexpr Operand kAbsent{2, 0};
  using Attribute =
      std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>>;
  using Attributes = std::vector<std::pair<std::string, Attribute>>;

  struct ExtraSection {
    std::string name;
    AlignedBytes bytes;
    uint32_t alignment;
    uint32_t flags;
  };

  std::string target = "cpu";
  std::string sku = "cpu";
  std::string variant = "x86-64";
  std::string builder_version = "0.1.0";
  uint32_t tp_size = 1;
  uint32_t tp_rank = 0;
  uint32_t weights_alignment = 64;
  Attributes attributes;                     // of the program
  std::vector<ExtraSection> extra_sections;  // behind weights

  // `bytes` as dtype, layout and shape imply; nothing is checked.
  Operand AddTensor(const std::string& name, const std::string& dtype, const std::string& layout,
                    std::vector<uint64_t> shape, const AlignedBytes& bytes) {
    PadTo(weights_, 64);
    tensors_.push_back({name, dtype, layout, std::move(shape), weights_.size(), bytes.size()});
    weights_.insert(weights_.end(), bytes.begin(), bytes.end());
    return {1, static_cast<uint32_t>(tensors_.size() - 1)};
  }

  Operand AddValue(const std::string& name, const std::string& dtype, const std::string& rows,
                   uint64_t columns) {
    values_.push_back({name, dtype, rows, columns});
    return {0, static_cast<uint32_t>(values_.size() - 1)};
  }

  void AddStep(const std::string& op, std::vector<Operand> inputs, std::vector<Operand> outputs,
               Attributes step_attributes = {}, uint32_t version = 1) {
    steps_.push_back(
        {op, std::move(inputs), std::move(outputs), std::move(step_attributes), version});
  }

  // flags: 1 special, 2 unused.
  void AddToken(const std::string& bytes, uint8_t flags = 0) { tokens_.push_back({bytes, flags}); }

  // Sections in this order: program, token_bytes, weights, extra sections.
  AlignedBytes Build() {
    std::vector<ExtraSection> sections = {{"program", Program(), 64, 1},
                                          {"token_bytes", TokenBytes(), 64, 1},
                                          {"weights", weights_, weights_alignment, 0}};
    sections.insert(sections.end(), extra_sections.begin(), extra_sections.end());
    AlignedBytes file(256 + 128 * sections.size());
    AlignedBytes table;
    for (const ExtraSection& section : sections) {
      PadTo(file, section.alignment);
      AppendText(table, section.name, 48);
      Append<uint64_t>(table, file.size());
      Append<uint64_t>(table, section.bytes.size());
      Append<uint32_t>(table, section.alignment);
      Append<uint32_t>(table, section.flags);
      table.resize(table.size() + 24 + 32);
      file.insert(file.end(), section.bytes.begin(), section.bytes.end());
    }
    const AlignedBytes header = Header(file.size(), static_cast<uint32_t>(sections.size()));
    std::copy(header.begin(), header.end(), file.begin());
    std::copy(table.begin(), table.end(), file.begin() + 256);
    Rehash(file);
    return file;
  }

 private:
  struct Tensor {
    std::string name, dtype, layout;
    std::vector<uint64_t> shape;
    uint64_t offset, bytes;
  };
  struct Value {
    std::string name, dtype, rows;
    uint64_t columns;
  };
  struct Step {
    std::string op;
    std::vector<Operand> inputs, outputs;
    Attributes attributes;
    uint32_t version;
  };
  struct Token {
    std::string bytes;
    uint8_t flags;
  };

  AlignedBytes Header(uint64_t file_bytes, uint32_t num_sections) const {
    AlignedBytes header;
    AppendText(header, "ENGINERY", 8);
    Append<uint32_t>(header, 1);
    Append<uint32_t>(header, 256);
    Append<uint64_t>(header, file_bytes);
    Append<uint32_t>(header, num_sections);
    Append<uint32_t>(header, 128);
    Append<uint64_t>(header, 256);
    AppendText(header, target, 32);
    AppendText(header, sku, 32);
    AppendText(header, variant, 32);
    Append<uint32_t>(header, tp_size);
    Append<uint32_t>(header, tp_rank);
    Append<uint32_t>(header, 1);  // pp_size
    Append<uint32_t>(header, 0);  // pp_rank
    AppendText(header, builder_version, 32);
    header.resize(256);
    return header;
  }

  AlignedBytes Program() {
    strings_.clear();
    string_offsets_.clear();
    arrays_.clear();
    AlignedBytes attribute_table, tensor_table, value_table, step_table, operand_table;
    uint32_t num_attributes = AppendAttributes(attribute_table, attributes);
    uint32_t num_operands = 0;
    for (const Step& step : steps_) {
      AppendString(step_table, step.op);
      Append<uint32_t>(step_table, step.version);
      Append<uint32_t>(step_table, num_operands);
      Append<uint32_t>(step_table, static_cast<uint32_t>(step.inputs.size()));
      Append<uint32_t>(step_table, static_cast<uint32_t>(step.outputs.size()));
      Append<uint32_t>(step_table, num_attributes);
      Append<uint32_t>(step_table, static_cast<uint32_t>(step.attributes.size()));
      step_table.resize(step_table.size() + 16);
      for (const auto* operands : {&step.inputs, &step.outputs}) {
        for (const Operand& operand : *operands) Append(operand_table, operand);
        num_operands += static_cast<uint32_t>(operands->size());
      }
      num_attributes += AppendAttributes(attribute_table, step.attributes);
    }
    for (const Tensor& tensor : tensors_) {
      AppendString(tensor_table, tensor.name);
      AppendString(tensor_table, tensor.dtype);
      AppendString(tensor_table, tensor.layout);
      Append<uint32_t>(tensor_table, static_cast<uint32_t>(tensor.shape.size()));
      Append<uint32_t>(tensor_table, 2);  // the section weights
      Append<uint64_t>(tensor_table, tensor.offset);
      Append<uint64_t>(tensor_table, tensor.bytes);
      for (size_t i = 0; i < 4; ++i) {
        Append<uint64_t>(tensor_table, i < tensor.shape.size() ? tensor.shape[i] : 0);
      }
      tensor_table.resize(tensor_table.size() + 16);
    }
    for (const Value& value : values_) {
      AppendString(value_table, value.name);
      AppendString(value_table, value.dtype);
      AppendString(value_table, value.rows);
      Append<uint64_t>(value_table, value.columns);
      value_table.resize(value_table.size() + 16);
    }
    PadTo(strings_, 8);

    AlignedBytes program;
    Append<uint32_t>(program, 0x4D475250);
    Append<uint32_t>(program, 1);
    Append<uint32_t>(program, static_cast<uint32_t>(attributes.size()));
    Append<uint32_t>(program, num_attributes);
    Append<uint32_t>(program, static_cast<uint32_t>(tensors_.size()));
    Append<uint32_t>(program, static_cast<uint32_t>(values_.size()));
    Append<uint32_t>(program, static_cast<uint32_t>(steps_.size()));
    Append<uint32_t>(program, num_operands);
    Append<uint64_t>(program, strings_.size());
    Append<uint64_t>(program, arrays_.size());
    program.resize(64);
    for (const auto* table : {&attribute_table, &tensor_table, &value_table, &step_table,
                              &operand_table, &strings_, &arrays_}) {
      program.insert(program.end(), table->begin(), table->end());
    }
    return program;
  }

  // Strings are stored once each, in the order of their first use.
  void AppendString(AlignedBytes& table, const std::string& text) {
    const auto [known, is_new] =
        string_offsets_.emplace(text, static_cast<uint32_t>(strings_.size()));
    if (is_new) AppendText(strings_, text, text.size());
    Append<uint32_t>(table, known->second);
    Append<uint32_t>(table, static_cast<uint32_t>(text.size()));
  }

  uint32_t AppendAttributes(AlignedBytes& table, const Attributes& list) {
    for (const auto& [name, value] : list) {
      AlignedBytes payload;  // before the name: the Python writer stores the value first
      uint64_t count = 1;
      if (const auto* number = std::get_if<int64_t>(&value)) Append(payload, *number);
      if (const auto* number = std::get_if<double>(&value)) Append(payload, *number);
      if (const auto* text = std::get_if<std::string>(&value)) AppendString(payload, *text);
      if (const auto* array = std::get_if<std::vector<int64_t>>(&value)) {
        count = AppendArray(payload, *array);
      }
      if (const auto* array = std::get_if<std::vector<double>>(&value)) {
        count = AppendArray(payload, *array);
      }
      AppendString(table, name);
      Append<uint32_t>(table, static_cast<uint32_t>(value.index() + 1));
      Append<uint32_t>(table, 0);
      table.insert(table.end(), payload.begin(), payload.end());
      Append<uint64_t>(table, count);
    }
    return static_cast<uint32_t>(list.size());
  }

  template <class T>
  uint64_t AppendArray(AlignedBytes& payload, const std::vector<T>& array) {
    Append<uint64_t>(payload, arrays_.size());
    for (const T element : array) Append(arrays_, element);
    return array.size();
  }

  AlignedBytes TokenBytes() const {
    AlignedBytes section, data;
    Append<uint32_t>(section, static_cast<uint32_t>(tokens_.size()));
    Append<uint32_t>(section, 0);
    for (const Token& token : tokens_) AppendText(data, token.bytes, token.bytes.size());
    Append<uint64_t>(section, data.size());
    uint32_t offset = 0;
    for (const Token& token : tokens_) {
      Append(section, offset);
      offset += static_cast<uint32_t>(token.bytes.size());
    }
    Append(section, offset);
    for (const Token& token : tokens_) Append(section, token.flags);
    section.insert(section.end(), data.begin(), data.end());
    PadTo(section, 8);
    return section;
  }

  std::vector<Tensor> tensors_;
  std::vector<Value> values_;
  std::vector<Step> steps_;
  std::vector<Token> tokens_;
  AlignedBytes weights_;
  AlignedBytes strings_, arrays_;  // of the program being built
  std::map<std::string, uint32_t> string_offsets_;
};

}  // namespace enginery::test
