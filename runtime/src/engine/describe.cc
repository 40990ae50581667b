// SPDX-License-Identifier: Apache-2.0
#include "engine/describe.h"

#include <type_traits>

#include "base/json_writer.h"
#include "engine/format.h"

namespace enginery {
namespace {

void WriteHeader(JsonWriter& json, const Header& header) {
  json.BeginObject();
  json.Key("format_version").Uint(header.format_version);
  json.Key("header_bytes").Uint(kHeaderBytes);
  json.Key("file_bytes").Uint(header.file_bytes);
  json.Key("num_sections").Uint(header.num_sections);
  json.Key("section_entry_bytes").Uint(kSectionEntryBytes);
  json.Key("section_table_offset").Uint(kHeaderBytes);
  json.Key("target").String(header.target);
  json.Key("sku").String(header.sku);
  json.Key("variant").String(header.variant);
  json.Key("tp_size").Uint(header.tp_size);
  json.Key("tp_rank").Uint(header.tp_rank);
  json.Key("pp_size").Uint(header.pp_size);
  json.Key("pp_rank").Uint(header.pp_rank);
  json.Key("builder_version").String(header.builder_version);
  json.Key("checksum").String(ToHex(header.checksum));
  json.EndObject();
}

void WriteSection(JsonWriter& json, const Section& section) {
  json.BeginObject();
  json.Key("name").String(section.name);
  json.Key("offset").Uint(section.offset);
  json.Key("bytes").Uint(section.bytes);
  json.Key("alignment").Uint(section.alignment);
  json.Key("flags").Uint(section.flags);
  json.Key("sha256").String(ToHex(section.sha256));
  json.EndObject();
}

void WriteNumber(JsonWriter& json, int64_t value) { json.Int(value); }
void WriteNumber(JsonWriter& json, double value) { json.Double(value); }

void WriteAttributes(JsonWriter& json, const Attributes& attributes) {
  json.BeginObject();
  for (const auto& [name, attribute] : attributes) {
    json.Key(name);
    std::visit(
        [&](const auto& value) {
          using Type = std::decay_t<decltype(value)>;
          if constexpr (std::is_same_v<Type, std::string>) {
            json.String(value);
          } else if constexpr (std::is_arithmetic_v<Type>) {
            WriteNumber(json, value);
          } else {
            json.BeginArray();
            for (const auto element : value) WriteNumber(json, element);
            json.EndArray();
          }
        },
        attribute);
  }
  json.EndObject();
}

void WriteTensor(JsonWriter& json, const Tensor& tensor, const EngineFile& file) {
  json.BeginObject();
  json.Key("name").String(tensor.name);
  json.Key("dtype").String(Name(tensor.dtype));
  json.Key("layout").String(Name(tensor.layout));
  json.Key("shape").BeginArray();
  for (const uint64_t size : tensor.shape) json.Uint(size);
  json.EndArray();
  json.Key("section").String(file.sections()[tensor.section].name);
  json.Key("offset").Uint(tensor.offset);
  json.Key("bytes").Uint(tensor.bytes);
  json.EndObject();
}

void WriteValue(JsonWriter& json, const Value& value) {
  json.BeginObject();
  json.Key("name").String(value.name);
  json.Key("dtype").String(Name(value.dtype));
  json.Key("rows").String(Name(value.rows));
  json.Key("columns").Uint(value.columns);
  json.EndObject();
}

void WriteOperands(JsonWriter& json, const std::vector<Operand>& operands, const Program& program) {
  json.BeginArray();
  for (const Operand& operand : operands) {
    switch (operand.kind) {
      case Operand::Kind::kValue:
        json.String(program.values[operand.index].name);
        break;
      case Operand::Kind::kTensor:
        json.String(program.tensors[operand.index].name);
        break;
      case Operand::Kind::kAbsent:
        json.Null();
        break;
    }
  }
  json.EndArray();
}

void WriteStep(JsonWriter& json, const Step& step, const Program& program) {
  json.BeginObject();
  json.Key("op").String(step.op);
  json.Key("version").Uint(step.version);
  json.Key("inputs");
  WriteOperands(json, step.inputs, program);
  json.Key("outputs");
  WriteOperands(json, step.outputs, program);
  json.Key("attributes");
  WriteAttributes(json, step.attributes);
  json.EndObject();
}

}  // namespace

std::string DescribeJson(const EngineFile& file) {
  const Program& program = file.program();
  JsonWriter json;
  json.BeginObject();
  json.Key("header");
  WriteHeader(json, file.header());
  json.Key("sections").BeginArray();
  for (const Section& section : file.sections()) WriteSection(json, section);
  json.EndArray();
  json.Key("attributes");
  WriteAttributes(json, program.attributes);
  json.Key("tensors").BeginArray();
  for (const Tensor& tensor : program.tensors) WriteTensor(json, tensor, file);
  json.EndArray();
  json.Key("values").BeginArray();
  for (const Value& value : program.values) WriteValue(json, value);
  json.EndArray();
  json.Key("steps").BeginArray();
  for (const Step& step : program.steps) WriteStep(json, step, program);
  json.EndArray();
  json.EndObject();
  return json.text();
}

}  // namespace enginery
