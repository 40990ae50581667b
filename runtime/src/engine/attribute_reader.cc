// SPDX-License-Identifier: Apache-2.0
#include "engine/attribute_reader.h"

#include <cmath>

#include "engine/invalid.h"

namespace enginery {
namespace {

constexpr enginery_status kStatus = ENGINERY_INVALID_PROGRAM;
constexpr size_t kValueOffset = 16;

enum AttributeType : uint32_t { kInt = 1, kFloat = 2, kString = 3, kIntArray = 4, kFloatArray = 5 };

Attribute ReadValue(ProgramImage& image, ByteSpan record, const std::string& field) {
  const uint32_t type = Load<uint32_t>(record, 8);
  const uint64_t count = Load<uint64_t>(record, 24);
  RequireRange(kStatus, field + ": type", type, kInt, kFloatArray);
  RequireRange(kStatus, field + ": the word at 12", Load<uint32_t>(record, 12), 0, 0);
  if (type == kIntArray) return image.IntArray(Load<uint64_t>(record, kValueOffset), count, field);
  if (type == kFloatArray) {
    return image.FloatArray(Load<uint64_t>(record, kValueOffset), count, field);
  }
  RequireRange(kStatus, field + ": count", count, 1, 1);
  if (type == kInt) return Load<int64_t>(record, kValueOffset);
  if (type == kString) return image.String(record, kValueOffset, kStatus, field);
  const double value = Load<double>(record, kValueOffset);
  if (!std::isfinite(value)) ThrowInvalid(kStatus, field, value, "finite numbers");
  return value;
}

}  // namespace

Attributes ReadAttributes(ProgramImage& image, uint32_t first, uint32_t count,
                          std::string_view owner) {
  Attributes attributes;
  for (uint32_t i = first; i < first + count; ++i) {
    const ByteSpan record = image.attributes()[i];
    const std::string where = StrCat(owner, ": attributes[", i, "]");
    std::string name = image.Name(record, 0, kStatus, where + ".name");
    Attribute value = ReadValue(image, record, StrCat(where, " ", Quoted(name)));
    const auto [position, is_new] = attributes.emplace(std::move(name), std::move(value));
    if (!is_new) {
      throw Error(kStatus, StrCat(owner, " has attribute ", Quoted(position->first),
                                  " twice; accepted: unique names"));
    }
  }
  return attributes;
}

}  // namespace enginery
