// SPDX-License-Identifier: Apache-2.0
#include "engine/program_image.h"

#include <cmath>
#include <cstring>

#include "base/utf8.h"
#include "engine/format.h"
#include "engine/invalid.h"

namespace enginery {
namespace {

constexpr enginery_status kStatus = ENGINERY_INVALID_PROGRAM;
constexpr uint64_t kProgramHeaderBytes = 64;

uint32_t ReadCount(ByteSpan section, size_t offset, std::string_view field) {
  const uint32_t count = Load<uint32_t>(section, offset);
  RequireRange(kStatus, field, count, 0, kMaxRecords);
  return count;
}

uint64_t ReadPaddedSize(ByteSpan section, size_t offset, std::string_view field) {
  const uint64_t size = Load<uint64_t>(section, offset);
  if (size % 8 != 0) ThrowInvalid(kStatus, field, size, "a multiple of 8");
  // Larger than the section is wrong whatever else it holds, and smaller sums cannot wrap.
  RequireRange(kStatus, field, size, 0, section.size());
  return size;
}

// Hands out consecutive pieces of the section after its header.
class Cutter {
 public:
  explicit Cutter(ByteSpan rest) : rest_(rest) {}
  RecordTable Table(uint32_t num_records, uint32_t record_bytes) {
    return RecordTable(Cut(uint64_t{num_records} * record_bytes), record_bytes);
  }
  ByteSpan Cut(uint64_t bytes) {
    const ByteSpan piece = rest_.first(bytes);
    rest_ = rest_.subspan(bytes);
    return piece;
  }

 private:
  ByteSpan rest_;
};

}  // namespace

ProgramImage::ProgramImage(ByteSpan section) {
  if (section.size() < kProgramHeaderBytes) {
    ThrowInvalid(kStatus, "program: the section's size", section.size(), "at least 64");
  }
  const uint32_t magic = Load<uint32_t>(section, 0);
  if (magic != kProgramMagic) {
    ThrowInvalid(kStatus, "program.magic", magic, StrCat(kProgramMagic, " (\"PRGM\")"));
  }
  const uint32_t version = Load<uint32_t>(section, 4);
  if (version != kProgramVersion) {
    ThrowInvalid(ENGINERY_UNSUPPORTED_VERSION, "program.program_version", version,
                 StrCat(kProgramVersion));
  }
  num_program_attributes_ = ReadCount(section, 8, "program.num_attributes");
  const uint32_t total_attributes = ReadCount(section, 12, "program.total_attributes");
  const uint32_t num_tensors = ReadCount(section, 16, "program.num_tensors");
  const uint32_t num_values = ReadCount(section, 20, "program.num_values");
  const uint32_t num_steps = ReadCount(section, 24, "program.num_steps");
  const uint32_t num_operands = ReadCount(section, 28, "program.num_operands");
  const uint64_t string_bytes = ReadPaddedSize(section, 32, "program.string_bytes");
  const uint64_t array_bytes = ReadPaddedSize(section, 40, "program.array_bytes");
  if (!IsZero(section.subspan(48, 16))) {
    throw Error(kStatus, "program: the bytes 48..63 of its header are not zero");
  }
  RequireRange(kStatus, "program.num_attributes", num_program_attributes_, 0, total_attributes);

  // Every term is bounded above (2^20 records of at most 96 bytes; sizes up to that of a section
  // in memory), so the sum stays below 2^64.
  const uint64_t needed = kProgramHeaderBytes + 32 * uint64_t{total_attributes} +
                          96 * uint64_t{num_tensors} + 48 * uint64_t{num_values} +
                          48 * uint64_t{num_steps} + 8 * uint64_t{num_operands} + string_bytes +
                          array_bytes;
  if (needed != section.size()) {
    throw Error(kStatus, StrCat("program: the section has ", section.size(),
                                " bytes, but the counts in its header need ", needed));
  }
  Cutter cutter(section.subspan(kProgramHeaderBytes));
  attributes_ = cutter.Table(total_attributes, 32);
  tensors_ = cutter.Table(num_tensors, 96);
  values_ = cutter.Table(num_values, 48);
  steps_ = cutter.Table(num_steps, 48);
  operands_ = cutter.Table(num_operands, 8);
  strings_ = cutter.Cut(string_bytes);
  arrays_ = cutter.Cut(array_bytes);
}

std::string ProgramImage::String(ByteSpan record, size_t offset, enginery_status status,
                                 std::string_view field) {
  const uint32_t begin = Load<uint32_t>(record, offset);
  const uint32_t length = Load<uint32_t>(record, offset + 4);
  if (!FitsIn(begin, length, strings_.size())) {
    throw Error(status, StrCat(field, " is the string at ", begin, " of length ", length,
                               "; the strings have ", strings_.size(), " bytes"));
  }
  num_text_bytes_ += length;
  if (num_text_bytes_ > kMaxTextBytes) {
    throw Error(status, StrCat(field, ": the program's strings are longer than ", kMaxTextBytes,
                               " bytes in all"));
  }
  const std::string_view text(reinterpret_cast<const char*>(strings_.data()) + begin, length);
  if (!IsUtf8(text) || text.find('\0') != std::string_view::npos) {
    ThrowInvalid(status, field, Quoted(text), "UTF-8 without zero bytes");
  }
  return std::string(text);
}

std::string ProgramImage::Name(ByteSpan record, size_t offset, enginery_status status,
                               std::string_view field) {
  std::string name = String(record, offset, status, field);
  if (name.empty()) ThrowInvalid(status, field, "\"\"", "a name");
  return name;
}

ByteSpan ProgramImage::Array(uint64_t offset, uint64_t count, std::string_view field) {
  if (offset % 8 != 0 || count > arrays_.size() / 8 || !FitsIn(offset, count * 8, arrays_.size())) {
    throw Error(kStatus, StrCat(field, " is the array at ", offset, " of ", count,
                                " elements; accepted: a multiple of 8, inside the arrays' ",
                                arrays_.size(), " bytes"));
  }
  num_array_elements_ += count;
  if (num_array_elements_ > kMaxArrayElements) {
    throw Error(kStatus, StrCat(field, ": the program's arrays have more than ", kMaxArrayElements,
                                " elements in all"));
  }
  return arrays_.subspan(offset, count * 8);
}

std::vector<int64_t> ProgramImage::IntArray(uint64_t offset, uint64_t count,
                                            std::string_view field) {
  const ByteSpan bytes = Array(offset, count, field);
  std::vector<int64_t> elements(count);
  if (count > 0) std::memcpy(elements.data(), bytes.data(), bytes.size());
  return elements;
}

std::vector<double> ProgramImage::FloatArray(uint64_t offset, uint64_t count,
                                             std::string_view field) {
  const ByteSpan bytes = Array(offset, count, field);
  std::vector<double> elements(count);
  if (count > 0) std::memcpy(elements.data(), bytes.data(), bytes.size());
  for (const double element : elements) {
    if (!std::isfinite(element)) {
      ThrowInvalid(kStatus, StrCat(field, ": an element"), element, "finite numbers");
    }
  }
  return elements;
}

}  // namespace enginery
