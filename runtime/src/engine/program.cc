// SPDX-License-Identifier: Apache-2.0
#include "engine/program.h"

#include "engine/invalid.h"

namespace enginery {
namespace {

template <class T>
const T& Get(const Attributes& attributes, std::string_view name, std::string_view owner,
             std::string_view type) {
  const auto found = attributes.find(name);
  if (found == attributes.end()) {
    throw Error(ENGINERY_INVALID_PROGRAM,
                StrCat(owner, ": attribute ", Quoted(name), " is missing; accepted: ", type));
  }
  const T* value = std::get_if<T>(&found->second);
  if (value == nullptr) {
    throw Error(ENGINERY_INVALID_PROGRAM,
                StrCat(owner, ": attribute ", Quoted(name), " has another type; accepted: ", type));
  }
  return *value;
}

}  // namespace

std::string_view Name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI8:
      return "i8";
    case DType::kI32:
      return "i32";
    case DType::kF8E4M3:
      return "f8e4m3";
    case DType::kI4:
      return "i4";
  }
  return "?";
}

uint64_t ElementBits(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 32;
    case DType::kBF16:
    case DType::kF16:
      return 16;
    case DType::kI8:
    case DType::kF8E4M3:
      return 8;
    case DType::kI4:
      return 4;
  }
  return 0;
}

std::string_view Name(Layout layout) {
  switch (layout) {
    case Layout::kRows:
      return "rows";
    case Layout::kN16K1:
      return "n16k1";
    case Layout::kN16K2:
      return "n16k2";
    case Layout::kN16K4:
      return "n16k4";
    case Layout::kN16K8:
      return "n16k8";
  }
  return "?";
}

std::string_view Name(Rows rows) {
  switch (rows) {
    case Rows::kTokens:
      return "tokens";
    case Rows::kLogits:
      return "logits";
  }
  return "?";
}

int64_t GetInt(const Attributes& attributes, std::string_view name, int64_t low, int64_t high,
               std::string_view owner) {
  const int64_t value = Get<int64_t>(attributes, name, owner, "i64");
  if (value < low || value > high) {
    ThrowInvalid(ENGINERY_INVALID_PROGRAM, StrCat(owner, ": attribute ", Quoted(name)), value,
                 StrCat(low, "..", high));
  }
  return value;
}

double GetFloat(const Attributes& attributes, std::string_view name, std::string_view owner) {
  return Get<double>(attributes, name, owner, "f64");
}

const std::string& GetString(const Attributes& attributes, std::string_view name,
                             std::string_view owner) {
  return Get<std::string>(attributes, name, owner, "string");
}

}  // namespace enginery
