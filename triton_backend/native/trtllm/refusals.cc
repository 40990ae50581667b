// SPDX-License-Identifier: Apache-2.0
#include "refusals.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "base/str_cat.h"
#include "native/problems.h"
#include "tensors.h"

namespace enginery::triton::trtllm {
namespace {

// NVIDIA's client sends it beside the input `streaming`, which is what counts.
constexpr std::string_view kStreaming = "Streaming";
constexpr size_t kMaxShown = 60;

// IEEE 754 binary16.
double FromHalf(uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1F;
  const int fraction = bits & 0x3FF;
  double magnitude = std::ldexp(fraction, -24);
  if (exponent > 0) magnitude = std::ldexp(0x400 + fraction, exponent - 25);
  if (exponent == 0x1F) magnitude = fraction == 0 ? HUGE_VAL : std::nan("");
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// The values of a tensor of any type, read one by one: there may be very many.
class Elements {
 public:
  explicit Elements(const InputTensor& tensor) : tensor_(tensor) {
    if (tensor.type == DataType::kString) texts_ = ReadTexts(tensor);
    size_ = tensor.type == DataType::kString ? texts_.size() : NumValues(tensor, ValueBytes());
  }

  size_t size() const { return size_; }

  OptionValue operator[](size_t i) const {
    switch (tensor_.type) {
      case DataType::kString:
        return texts_[i];
      case DataType::kBool:
        return AsTruth(tensor_.name, At<uint8_t>(i));
      case DataType::kUint8:
        return int64_t{At<uint8_t>(i)};
      case DataType::kInt32:
        return int64_t{At<int32_t>(i)};
      case DataType::kInt64:
        return At<int64_t>(i);
      case DataType::kUint64:
        return At<uint64_t>(i);
      case DataType::kFp16:
        return FromHalf(At<uint16_t>(i));
      default:
        return double{At<float>(i)};
    }
  }

 private:
  size_t ValueBytes() const {
    switch (tensor_.type) {
      case DataType::kBool:
      case DataType::kUint8:
        return 1;
      case DataType::kFp16:
        return 2;
      case DataType::kInt64:
      case DataType::kUint64:
        return 8;
      default:
        return 4;
    }
  }

  template <class Number>
  Number At(size_t i) const {
    Number value;
    std::memcpy(&value, tensor_.data.data() + i * sizeof value, sizeof value);
    return value;
  }

  const InputTensor& tensor_;
  std::vector<std::string> texts_;
  size_t size_ = 0;
};

// As Python writes a float: digits in full below 1e16, and always a point or an exponent.
std::string ShowReal(double value) {
  const double magnitude = std::abs(value);
  const bool is_plain = magnitude == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  char digits[32];
  const auto format = is_plain ? std::chars_format::fixed : std::chars_format::scientific;
  const std::to_chars_result end = std::to_chars(digits, digits + sizeof digits, value, format);
  std::string shown(digits, end.ptr);
  if (is_plain && shown.find('.') == std::string::npos) shown += ".0";
  return shown;
}

std::string ShowOne(const OptionValue& value) {
  if (const auto* truth = std::get_if<bool>(&value)) return *truth ? "True" : "False";
  if (const auto* real = std::get_if<double>(&value)) return ShowReal(*real);
  if (const auto* text = std::get_if<std::string>(&value)) return StrCat("'", *text, "'");
  return Show(value);
}

// The bytes of the first `count` characters.
size_t BytesOf(std::string_view text, size_t count) {
  size_t end = 0;
  while (end < text.size()) {
    const bool begins = (static_cast<unsigned char>(text[end]) & 0xC0) != 0x80;
    if (begins && count-- == 0) break;
    ++end;
  }
  return end;
}

std::string ShowAll(const Elements& elements) {
  std::string shown = elements.size() == 1 ? "" : "[";
  for (size_t i = 0; i < elements.size() && BytesOf(shown, kMaxShown) == shown.size(); ++i) {
    shown += StrCat(i == 0 ? "" : ", ", ShowOne(elements[i]));
  }
  if (elements.size() != 1) shown += "]";
  const size_t end = BytesOf(shown, kMaxShown);
  return end == shown.size() ? shown : StrCat(shown.substr(0, end), "...");
}

// "" or what the ensemble calls it, where that is another name.
std::string Alias(std::string_view target) {
  const auto found = std::ranges::find(EnsembleInputs(), target, &EnsembleInput::target);
  if (found == EnsembleInputs().end() || found->name == target) return "";
  return StrCat(" (", found->name, " of the ensemble)");
}

bool AsksForSomething(const Elements& elements, const UnsupportedOption& option) {
  const bool has_off = !option.neutral.empty();
  const OptionValue off = has_off ? FromJson(ParseJson(option.neutral)) : OptionValue();
  for (size_t i = 0; i < elements.size(); ++i) {
    if (!has_off || !IsSame(elements[i], off)) return true;
  }
  return false;
}

}  // namespace

void RefuseUnsupported(std::span<const InputTensor> inputs) {
  Problems problems("not supported");
  for (const UnsupportedOption& option : RefusedInputs()) {
    const auto tensor = std::ranges::find(inputs, option.name, &InputTensor::name);
    if (tensor == inputs.end()) continue;
    CheckType(*tensor, FindTensor(Inputs(), option.name)->type);
    const Elements elements(*tensor);
    if (!AsksForSomething(elements, option)) continue;
    problems.Add(
        StrCat(option.name, Alias(option.name), " = ", ShowAll(elements), ": ", option.reason));
  }
  problems.ThrowIfAny();
}

void RefuseParameters(std::span<const RequestParameter> parameters) {
  std::vector<std::string_view> names;
  for (const EnsembleInput& input : EnsembleInputs()) names.push_back(input.name);
  Problems problems("request");
  for (const RequestParameter& parameter : parameters) {
    const bool is_known = parameter.name == kStreaming || parameter.name == kTicket;
    if (!is_known && !IsServersOwn(parameter)) problems.Add(NoSuchOption(parameter.name, names));
  }
  problems.ThrowIfAny();
}

}  // namespace enginery::triton::trtllm
