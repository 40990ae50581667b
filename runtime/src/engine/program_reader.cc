// SPDX-License-Identifier: Apache-2.0
#include "engine/program_reader.h"

#include <string>
#include <unordered_set>

#include "engine/attribute_reader.h"
#include "engine/format.h"
#include "engine/invalid.h"
#include "engine/program_image.h"
#include "engine/tensor_reader.h"

namespace enginery {
namespace {

constexpr enginery_status kStatus = ENGINERY_INVALID_PROGRAM;

void RequireZero(ByteSpan record, size_t begin, size_t size, const std::string& where) {
  if (IsZero(record.subspan(begin, size))) return;
  throw Error(kStatus, StrCat(where, ": the bytes ", begin, "..", begin + size - 1,
                              " of the record are not zero"));
}

DType ReadValueDType(const std::string& name, std::string_view field) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI8}) {
    if (name == Name(dtype)) return dtype;
  }
  ThrowInvalid(kStatus, field, Quoted(name), "f32, bf16, f16, i8");
}

Value ReadValue(ProgramImage& image, uint32_t index) {
  const ByteSpan record = image.values()[index];
  std::string where = StrCat("values[", index, "]");
  Value value;
  value.name = image.Name(record, 0, kStatus, where + ".name");
  where += " " + Quoted(value.name);
  const std::string dtype = image.String(record, 8, kStatus, where + ": dtype");
  value.dtype = ReadValueDType(dtype, where + ": dtype");
  const std::string rows = image.String(record, 16, kStatus, where + ": rows");
  if (rows == Name(Rows::kTokens)) {
    value.rows = Rows::kTokens;
  } else if (rows == Name(Rows::kLogits)) {
    value.rows = Rows::kLogits;
  } else {
    ThrowInvalid(kStatus, where + ": rows", Quoted(rows), "tokens, logits");
  }
  value.columns = Load<uint64_t>(record, 24);
  RequireRange(kStatus, where + ": columns", value.columns, 1, kMaxColumns);
  RequireZero(record, 32, 16, where);
  return value;
}

std::vector<Value> ReadValues(ProgramImage& image) {
  std::vector<Value> values;
  values.reserve(image.values().size());  // names in `names` stay where they are
  std::unordered_set<std::string_view> names;
  for (uint32_t i = 0; i < image.values().size(); ++i) {
    values.push_back(ReadValue(image, i));
    if (!names.insert(values.back().name).second) {
      throw Error(kStatus, StrCat("values[", i, "].name ", Quoted(values.back().name),
                                  " is the name of two values; accepted: unique names"));
    }
  }
  return values;
}

Operand ReadOperand(const ProgramImage& image, uint32_t index, const std::string& where) {
  const ByteSpan record = image.operands()[index];
  const uint32_t kind = Load<uint32_t>(record, 0);
  Operand operand{Operand::Kind::kAbsent, Load<uint32_t>(record, 4)};
  uint32_t num_candidates = 1;  // an absent operand has index 0
  RequireRange(kStatus, StrCat(where, ": operands[", index, "].kind"), kind, 0, 2);
  if (kind == 0) {
    operand.kind = Operand::Kind::kValue;
    num_candidates = image.values().size();
  } else if (kind == 1) {
    operand.kind = Operand::Kind::kTensor;
    num_candidates = image.tensors().size();
  }
  if (operand.index >= num_candidates) {
    ThrowInvalid(kStatus, StrCat(where, ": operands[", index, "].index"), operand.index,
                 StrCat("below ", num_candidates));
  }
  return operand;
}

// Reads steps in order and holds how far their ranges of operands and attributes have come.
class StepReader {
 public:
  explicit StepReader(ProgramImage& image)
      : image_(image), next_attribute_(image.num_program_attributes()) {}

  Step Read(uint32_t index) {
    const ByteSpan record = image_.steps()[index];
    std::string where = StrCat("steps[", index, "]");
    Step step;
    step.op = image_.Name(record, 0, kStatus, where + ".op");
    where += " " + Quoted(step.op);
    step.version = Load<uint32_t>(record, 8);
    const uint32_t num_inputs = Load<uint32_t>(record, 16);
    const uint32_t num_outputs = Load<uint32_t>(record, 20);
    const uint32_t num_attributes = Load<uint32_t>(record, 28);
    RequireRange(kStatus, where + ": first_operand", Load<uint32_t>(record, 12), next_operand_,
                 next_operand_);
    RequireRange(kStatus, where + ": num_inputs", num_inputs, 0,
                 image_.operands().size() - next_operand_);
    for (uint32_t i = 0; i < num_inputs; ++i) {
      step.inputs.push_back(ReadOperand(image_, next_operand_++, where));
    }
    RequireRange(kStatus, where + ": num_outputs", num_outputs, 0,
                 image_.operands().size() - next_operand_);
    for (uint32_t i = 0; i < num_outputs; ++i) {
      step.outputs.push_back(ReadOperand(image_, next_operand_, where));
      if (step.outputs.back().kind != Operand::Kind::kValue) {
        throw Error(kStatus, StrCat(where, ": operands[", next_operand_,
                                    "] is an output, but no value; accepted: values"));
      }
      ++next_operand_;
    }
    RequireRange(kStatus, where + ": first_attribute", Load<uint32_t>(record, 24), next_attribute_,
                 next_attribute_);
    RequireRange(kStatus, where + ": num_attributes", num_attributes, 0,
                 image_.attributes().size() - next_attribute_);
    step.attributes = ReadAttributes(image_, next_attribute_, num_attributes, where);
    next_attribute_ += num_attributes;
    RequireZero(record, 32, 16, where);
    return step;
  }

  // Every operand and attribute belongs to a step.
  void Finish() const {
    RequireRange(kStatus, "program.num_operands", image_.operands().size(), next_operand_,
                 next_operand_);
    RequireRange(kStatus, "program.total_attributes", image_.attributes().size(), next_attribute_,
                 next_attribute_);
  }

 private:
  ProgramImage& image_;
  uint32_t next_operand_ = 0;
  uint32_t next_attribute_;
};

}  // namespace

Program ReadProgram(ByteSpan file, const std::vector<Section>& sections, const Section& program) {
  ProgramImage image(file.subspan(program.offset, program.bytes));
  Program result;
  result.attributes = ReadAttributes(image, 0, image.num_program_attributes(), "program");
  result.tensors = ReadTensors(image, file, sections);
  result.values = ReadValues(image);
  StepReader steps(image);
  result.steps.reserve(image.steps().size());
  for (uint32_t i = 0; i < image.steps().size(); ++i) result.steps.push_back(steps.Read(i));
  steps.Finish();
  return result;
}

}  // namespace enginery
