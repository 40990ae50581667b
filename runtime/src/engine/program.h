// SPDX-License-Identifier: Apache-2.0
//
// A rank's program as docs/engine-format.md describes it, after every offset, shape, dtype and
// index was checked by the reader: whoever holds a Program may follow its pointers and indices
// without checking them again. What the operations mean (operand counts, dtypes and shapes an op
// accepts) is checked by the executor when it prepares the program.
#ifndef ENGINERY_SRC_ENGINE_PROGRAM_H_
#define ENGINERY_SRC_ENGINE_PROGRAM_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace enginery {

enum class DType {
  kF32,
  kBF16,
  kF16,
  kI8,
  kI32,
  kF8E4M3,
  kI4,  // two in a byte, as the layout says
};
enum class Layout { kRows, kN16K1, kN16K2, kN16K4, kN16K8 };
enum class Rows { kTokens, kLogits };

std::string_view Name(DType dtype);
std::string_view Name(Layout layout);
std::string_view Name(Rows rows);
uint64_t ElementBits(DType dtype);

using Attribute =
    std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>>;
using Attributes = std::map<std::string, Attribute, std::less<>>;

// A constant, mapped and used in place. `data` is aligned to 64 bytes.
struct Tensor {
  std::string name;
  DType dtype;
  Layout layout;
  std::vector<uint64_t> shape;  // logical, 1 to 4 dimensions, each >= 1
  const std::byte* data;
  uint64_t bytes;
  uint32_t section;
  uint64_t offset;  // in the section
};

// A scratch matrix of the step: [rows, columns].
struct Value {
  std::string name;
  DType dtype;  // kF32, kBF16, kF16 or kI8 (on cpu with one f32 scale per row beside it)
  Rows rows;
  uint64_t columns;
};

struct Operand {
  enum class Kind { kValue, kTensor, kAbsent };
  Kind kind;
  uint32_t index;  // into Program::values or Program::tensors; 0 when absent
};

struct Step {
  std::string op;
  uint32_t version;
  std::vector<Operand> inputs;
  std::vector<Operand> outputs;  // all values
  Attributes attributes;
};

struct Program {
  Attributes attributes;
  std::vector<Tensor> tensors;
  std::vector<Value> values;
  std::vector<Step> steps;
};

// Typed look-ups in attributes; throw Error(ENGINERY_INVALID_PROGRAM) naming `owner` and the
// attribute when it is missing, of another type, or (Int) outside [low, high].
int64_t GetInt(const Attributes& attributes, std::string_view name, int64_t low, int64_t high,
               std::string_view owner);
double GetFloat(const Attributes& attributes, std::string_view name, std::string_view owner);
const std::string& GetString(const Attributes& attributes, std::string_view name,
                             std::string_view owner);

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_PROGRAM_H_
