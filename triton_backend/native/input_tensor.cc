// SPDX-License-Identifier: Apache-2.0
#include "input_tensor.h"

#include <limits>
#include <utility>

#include "base/error.h"
#include "base/str_cat.h"
#include "base/utf8.h"

namespace enginery::triton {
namespace {

constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();

uint64_t NumElements(const InputTensor& tensor) {
  uint64_t count = 1;
  for (const int64_t dim : tensor.shape) {
    if (dim < 0) RefuseInput(tensor.name, StrCat("a dimension is ", dim, "; none may be negative"));
    if (__builtin_mul_overflow(count, static_cast<uint64_t>(dim), &count)) {
      RefuseInput(tensor.name, "the shape has more elements than fit into 64 bits");
    }
  }
  return count;
}

template <class Item>
Item& OnlyOne(const InputTensor& tensor, std::vector<Item>& items) {
  if (items.size() != 1) {
    RefuseInput(tensor.name, StrCat("has ", items.size(), " values; give one"));
  }
  return items[0];
}

template <class Number>
Number ReadNumber(const InputTensor& tensor) {
  std::vector<Number> values = ReadNumbers<Number>(tensor);
  return OnlyOne(tensor, values);
}

}  // namespace

void RefuseInput(std::string_view name, std::string_view problem) {
  throw Error(ENGINERY_INVALID_ARGUMENT, StrCat(name, ": ", problem));
}

void CheckType(const InputTensor& tensor, DataType type) {
  if (tensor.type == type) return;
  RefuseInput(tensor.name,
              StrCat("is of ", DataTypeName(tensor.type), "; must be ", DataTypeName(type)));
}

uint64_t NumValues(const InputTensor& tensor, size_t value_bytes) {
  const uint64_t count = NumElements(tensor);
  if (tensor.data.size() % value_bytes != 0 || tensor.data.size() / value_bytes != count) {
    RefuseInput(tensor.name, StrCat("has ", tensor.data.size(), " bytes for ", count, " values of ",
                                    value_bytes, " bytes"));
  }
  return count;
}

bool AsTruth(std::string_view name, uint8_t value) {
  if (value > 1) RefuseInput(name, StrCat("the byte ", value, " is no BOOL; give 0 or 1"));
  return value == 1;
}

// Each text is its length in four bytes, little-endian as this machine, and then its bytes.
std::vector<std::string> ReadTexts(const InputTensor& tensor) {
  const uint64_t count = NumElements(tensor);
  std::vector<std::string> texts;
  std::span<const std::byte> rest = tensor.data;
  while (!rest.empty()) {
    uint32_t num_bytes = 0;
    if (rest.size() < sizeof num_bytes) {
      RefuseInput(tensor.name, "ends within the length of a text");
    }
    std::memcpy(&num_bytes, rest.data(), sizeof num_bytes);
    rest = rest.subspan(sizeof num_bytes);
    if (num_bytes > rest.size()) {
      RefuseInput(tensor.name,
                  StrCat("a text of ", num_bytes, " bytes has ", rest.size(), " left"));
    }
    texts.emplace_back(reinterpret_cast<const char*>(rest.data()), num_bytes);
    if (!IsUtf8(texts.back())) RefuseInput(tensor.name, "is not UTF-8");
    rest = rest.subspan(num_bytes);
  }
  if (texts.size() != count) {
    RefuseInput(tensor.name, StrCat("has ", texts.size(), " texts; its shape says ", count));
  }
  return texts;
}

OptionValue ReadValue(const TensorSpec& spec, const InputTensor& tensor) {
  CheckType(tensor, spec.type);
  switch (spec.type) {
    case DataType::kString: {
      std::vector<std::string> texts = ReadTexts(tensor);
      if (spec.dims == kAny) return texts;
      return std::move(OnlyOne(tensor, texts));
    }
    case DataType::kInt32:
      if (spec.dims == kAny) return ReadNumbers<int32_t>(tensor);
      return int64_t{ReadNumber<int32_t>(tensor)};
    case DataType::kInt64:
      return ReadNumber<int64_t>(tensor);
    case DataType::kUint64: {
      const uint64_t value = ReadNumber<uint64_t>(tensor);
      if (value <= static_cast<uint64_t>(kMaxInt64)) return static_cast<int64_t>(value);
      return value;
    }
    case DataType::kFp32:
      if (spec.dims == kAny) return ReadNumbers<float>(tensor);
      return double{ReadNumber<float>(tensor)};
    case DataType::kBool:
      return AsTruth(tensor.name, ReadNumber<uint8_t>(tensor));
    default:
      break;
  }
  RefuseInput(tensor.name, "is of a type that no input has");
}

}  // namespace enginery::triton
