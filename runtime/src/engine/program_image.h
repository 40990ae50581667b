// SPDX-License-Identifier: Apache-2.0
//
// Section `program` as bytes: where its tables stand, and its strings and arrays.
#ifndef ENGINERY_SRC_ENGINE_PROGRAM_IMAGE_H_
#define ENGINERY_SRC_ENGINE_PROGRAM_IMAGE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"

namespace enginery {

// A table of records of one size, all of it inside the section.
class RecordTable {
 public:
  RecordTable() = default;
  RecordTable(ByteSpan bytes, uint32_t record_bytes) : bytes_(bytes), record_bytes_(record_bytes) {}
  uint32_t size() const { return static_cast<uint32_t>(bytes_.size() / record_bytes_); }
  ByteSpan operator[](uint32_t i) const {
    return bytes_.subspan(size_t{i} * record_bytes_, record_bytes_);
  }

 private:
  ByteSpan bytes_;
  uint32_t record_bytes_ = 1;
};

class ProgramImage {
 public:
  // Checks the program header and that the section is exactly as long as its tables. Throws Error:
  // ENGINERY_INVALID_PROGRAM, ENGINERY_UNSUPPORTED_VERSION.
  explicit ProgramImage(ByteSpan section);

  uint32_t num_program_attributes() const { return num_program_attributes_; }
  const RecordTable& attributes() const { return attributes_; }
  const RecordTable& tensors() const { return tensors_; }
  const RecordTable& values() const { return values_; }
  const RecordTable& steps() const { return steps_; }
  const RecordTable& operands() const { return operands_; }

  // The string that the reference at `offset` of `record` stands for: UTF-8 without zero bytes.
  // Throws Error(status) naming `field`. Not const: what strings and arrays cost is counted.
  std::string String(ByteSpan record, size_t offset, enginery_status status,
                     std::string_view field);
  // As String, but not empty.
  std::string Name(ByteSpan record, size_t offset, enginery_status status, std::string_view field);

  // `count` elements of 8 bytes at byte `offset` of the arrays.
  std::vector<int64_t> IntArray(uint64_t offset, uint64_t count, std::string_view field);
  // The same, all finite.
  std::vector<double> FloatArray(uint64_t offset, uint64_t count, std::string_view field);

 private:
  ByteSpan Array(uint64_t offset, uint64_t count, std::string_view field);

  uint32_t num_program_attributes_ = 0;
  RecordTable attributes_;
  RecordTable tensors_;
  RecordTable values_;
  RecordTable steps_;
  RecordTable operands_;
  ByteSpan strings_;
  ByteSpan arrays_;
  uint64_t num_text_bytes_ = 0;
  uint64_t num_array_elements_ = 0;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_PROGRAM_IMAGE_H_
