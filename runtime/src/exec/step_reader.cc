// SPDX-License-Identifier: Apache-2.0
#include "exec/step_reader.h"

#include <algorithm>
#include <limits>

#include "base/str_cat.h"
#include "engine/invalid.h"

namespace enginery {
namespace {

std::string Names(std::initializer_list<DType> dtypes) {
  std::string names;
  for (const DType dtype : dtypes) names += StrCat(names.empty() ? "" : ", ", Name(dtype));
  return names;
}

}  // namespace

StepReader::StepReader(const Program& program, size_t step_index)
    : program_(program),
      step_(program.steps[step_index]),
      owner_(StrCat("step ", step_index, " (", Quoted(step_.op), ")")) {}

void StepReader::ThrowUnsupported(const std::string& what) const {
  throw Error(ENGINERY_UNSUPPORTED_OP, StrCat(owner_, ": ", what));
}

void StepReader::ThrowInvalid(const std::string& what) const {
  throw Error(ENGINERY_INVALID_PROGRAM, StrCat(owner_, ": ", what));
}

void StepReader::Expect(size_t num_inputs, size_t num_outputs,
                        std::initializer_list<std::string_view> attributes) const {
  if (step_.inputs.size() != num_inputs || step_.outputs.size() != num_outputs) {
    ThrowInvalid(StrCat("has ", step_.inputs.size(), " inputs and ", step_.outputs.size(),
                        " outputs; accepted: ", num_inputs, " and ", num_outputs));
  }
  for (const auto& [name, value] : step_.attributes) {
    if (std::ranges::find(attributes, name) == attributes.end()) {
      ThrowUnsupported(StrCat("attribute ", Quoted(name), " is not known"));
    }
  }
}

ValueOperand StepReader::Value(const Operand& operand, std::string_view side, size_t i,
                               std::initializer_list<DType> dtypes) const {
  if (operand.kind != Operand::Kind::kValue) {
    ThrowInvalid(StrCat(side, " ", i, " is not a value"));
  }
  const enginery::Value& value = program_.values[operand.index];
  if (std::ranges::find(dtypes, value.dtype) == dtypes.end()) {
    ThrowUnsupported(StrCat(side, " ", i, ", value ", Quoted(value.name), ", is ",
                            Name(value.dtype), "; accepted: ", Names(dtypes)));
  }
  return {operand.index, value.dtype, value.rows, static_cast<int64_t>(value.columns)};
}

ValueOperand StepReader::input(size_t i, std::initializer_list<DType> dtypes) const {
  return Value(step_.inputs[i], "input", i, dtypes);
}

ValueOperand StepReader::output(size_t i, std::initializer_list<DType> dtypes) const {
  return Value(step_.outputs[i], "output", i, dtypes);
}

const Tensor& StepReader::tensor(size_t i) const {
  if (step_.inputs[i].kind != Operand::Kind::kTensor) {
    ThrowInvalid(StrCat("input ", i, " is not a tensor"));
  }
  return program_.tensors[step_.inputs[i].index];
}

const Tensor& StepReader::Vector(size_t i, DType dtype, int64_t n) const {
  const Tensor& vector = tensor(i);
  if (vector.dtype != dtype || vector.layout != Layout::kRows) {
    ThrowUnsupported(StrCat("input ", i, ", tensor ", Quoted(vector.name), ", is ",
                            Name(vector.dtype), " in ", Name(vector.layout),
                            "; accepted: ", Name(dtype), " in rows"));
  }
  if (vector.shape.size() != 1 || vector.shape[0] != static_cast<uint64_t>(n)) {
    ThrowInvalid(StrCat("input ", i, ", tensor ", Quoted(vector.name), ", has ",
                        vector.shape.size(), " dimensions, the first of ", vector.shape[0],
                        "; accepted: 1 of ", n));
  }
  return vector;
}

const float* StepReader::f32_vector(size_t i, int64_t n) const {
  return reinterpret_cast<const float*>(Vector(i, DType::kF32, n).data);
}

const float* StepReader::optional_f32_vector(size_t i, int64_t n) const {
  return has_input(i) ? f32_vector(i, n) : nullptr;
}

const int32_t* StepReader::i32_vector(size_t i, int64_t n) const {
  return reinterpret_cast<const int32_t*>(Vector(i, DType::kI32, n).data);
}

float StepReader::scale(size_t i) const {
  const float value = *f32_vector(i, 1);
  if (!(value > 0.0f && value <= std::numeric_limits<float>::max())) {
    ThrowInvalid(StrCat("input ", i, ", tensor ", Quoted(tensor(i).name), ", is ",
                        static_cast<double>(value), "; accepted: finite numbers above 0"));
  }
  return value;
}

int64_t StepReader::int_attribute(std::string_view name, int64_t low, int64_t high) const {
  return GetInt(step_.attributes, name, low, high, owner_);
}

float StepReader::float_attribute(std::string_view name, double low, double high) const {
  const double value = GetFloat(step_.attributes, name, owner_);
  if (!(value >= low && value <= high)) {
    ThrowInvalid(StrCat("attribute ", name, " is ", value, "; accepted: ", low, "..", high));
  }
  return static_cast<float>(value);
}

void StepReader::ExpectColumns(std::string_view what, int64_t columns, int64_t expected) const {
  if (columns != expected) {
    ThrowInvalid(StrCat(what, " has ", columns, " columns; accepted: ", expected));
  }
}

void StepReader::ExpectSameRows(const ValueOperand& a, const ValueOperand& b) const {
  if (a.rows != b.rows) {
    ThrowInvalid(
        StrCat("values of rows ", Name(a.rows), " and ", Name(b.rows), " do not go together"));
  }
}

void StepReader::ExpectDifferent(const ValueOperand& a, const ValueOperand& b) const {
  if (a.index == b.index) ThrowInvalid("cannot write over the value that it reads");
}

void StepReader::ExpectSame(const ValueOperand& a, const ValueOperand& b) const {
  if (a.index != b.index) ThrowInvalid("works in place: its output must be its input");
}

}  // namespace enginery
