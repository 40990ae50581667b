// SPDX-License-Identifier: Apache-2.0
//
// Where the fields of a valid engine file stand, so that a test can break one of them.
#pragma once

#include <cstdint>

#include "support/aligned_bytes.h"

namespace enginery::test {

struct FileMap {
  explicit FileMap(const AlignedBytes& file) {
    program = Get<uint64_t>(file, SectionEntry(0) + 48);
    token_bytes = Get<uint64_t>(file, SectionEntry(1) + 48);
    num_attributes = Get<uint32_t>(file, program + 12);
    num_tensors = Get<uint32_t>(file, program + 16);
    num_values = Get<uint32_t>(file, program + 20);
    num_steps = Get<uint32_t>(file, program + 24);
    num_operands = Get<uint32_t>(file, program + 28);
    string_bytes = Get<uint64_t>(file, program + 32);
    num_tokens = Get<uint32_t>(file, token_bytes);
    attributes = program + 64;
    tensors = attributes + 32 * num_attributes;
    values = tensors + 96 * num_tensors;
    steps = values + 48 * num_values;
    operands = steps + 48 * num_steps;
    strings = operands + 8 * num_operands;
    arrays = strings + string_bytes;
  }

  // All are offsets in the file.
  static size_t SectionEntry(size_t i) { return 256 + 128 * i; }
  size_t Attribute(size_t i) const { return attributes + 32 * i; }
  size_t Tensor(size_t i) const { return tensors + 96 * i; }
  size_t Value(size_t i) const { return values + 48 * i; }
  size_t Step(size_t i) const { return steps + 48 * i; }
  size_t Operand(size_t i) const { return operands + 8 * i; }
  size_t TokenOffset(size_t id) const { return token_bytes + 16 + 4 * id; }
  size_t TokenFlags(size_t id) const { return TokenOffset(num_tokens + 1) + id; }

  size_t program, token_bytes;
  size_t attributes, tensors, values, steps, operands, strings, arrays;
  size_t num_attributes, num_tensors, num_values, num_steps, num_operands, string_bytes, num_tokens;
};

}  // namespace enginery::test
