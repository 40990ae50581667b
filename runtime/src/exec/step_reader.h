// SPDX-License-Identifier: Apache-2.0
//
// Checked access to the operands and attributes of one step. Every complaint names the step, the
// operand, what it is and what is accepted.
#ifndef ENGINERY_SRC_EXEC_STEP_READER_H_
#define ENGINERY_SRC_EXEC_STEP_READER_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "base/error.h"
#include "engine/program.h"

namespace enginery {

// An operand that is a value: its index in the program, and what it is.
struct ValueOperand {
  size_t index;
  DType dtype;
  Rows rows;
  int64_t columns;
};

class StepReader {
 public:
  StepReader(const Program& program, size_t step_index);

  const Step& step() const { return step_; }
  // Operands and attributes are as many, and of the names, that the op has.
  // ENGINERY_INVALID_PROGRAM otherwise.
  void Expect(size_t num_inputs, size_t num_outputs,
              std::initializer_list<std::string_view> attributes) const;

  ValueOperand input(size_t i, std::initializer_list<DType> dtypes) const;
  ValueOperand output(size_t i, std::initializer_list<DType> dtypes) const;
  // A tensor input; which dtypes and layouts are supported is the op's affair.
  const Tensor& tensor(size_t i) const;
  bool has_input(size_t i) const { return step_.inputs[i].kind != Operand::Kind::kAbsent; }
  // A tensor input [n] of T in `rows`. The optional one gives null when it is absent.
  const float* f32_vector(size_t i, int64_t n) const;
  const float* optional_f32_vector(size_t i, int64_t n) const;
  const int32_t* i32_vector(size_t i, int64_t n) const;
  // The value of a tensor input f32 [1] in `rows`: a scale, finite and above zero.
  float scale(size_t i) const;

  int64_t int_attribute(std::string_view name, int64_t low, int64_t high) const;
  float float_attribute(std::string_view name, double low, double high) const;

  // Throws ENGINERY_INVALID_PROGRAM unless the columns (rows) are the same.
  void ExpectColumns(std::string_view what, int64_t columns, int64_t expected) const;
  void ExpectSameRows(const ValueOperand& a, const ValueOperand& b) const;
  void ExpectDifferent(const ValueOperand& a, const ValueOperand& b) const;
  void ExpectSame(const ValueOperand& a, const ValueOperand& b) const;

  [[noreturn]] void ThrowUnsupported(const std::string& what) const;
  [[noreturn]] void ThrowInvalid(const std::string& what) const;

 private:
  ValueOperand Value(const Operand& operand, std::string_view side, size_t i,
                     std::initializer_list<DType> dtypes) const;
  const Tensor& Vector(size_t i, DType dtype, int64_t n) const;

  const Program& program_;
  const Step& step_;
  std::string owner_;  // "step 3 (linear)"
};

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_STEP_READER_H_
