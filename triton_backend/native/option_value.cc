// SPDX-License-Identifier: Apache-2.0
#include "option_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "base/error.h"
#include "base/str_cat.h"

namespace enginery::triton {
namespace {

constexpr size_t kMaxShownItems = 8;
constexpr size_t kMaxShownBytes = 64;

// Not at a byte that continues a character: the message stays UTF-8.
std::string_view CutText(std::string_view text) {
  if (text.size() <= kMaxShownBytes) return text;
  size_t end = kMaxShownBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end);
}

std::string ShowOne(int32_t value) { return StrCat(value); }
std::string ShowOne(float value) { return StrCat(value); }
std::string ShowOne(const std::string& text) {
  return StrCat("'", CutText(text), text.size() > kMaxShownBytes ? "...'" : "'");
}

template <class Item>
std::string ShowList(const std::vector<Item>& items) {
  std::string out = "[";
  for (size_t i = 0; i < std::min(items.size(), kMaxShownItems); ++i) {
    out += StrCat(i == 0 ? "" : ", ", ShowOne(items[i]));
  }
  return out + (items.size() > kMaxShownItems ? ", ...]" : "]");
}

struct Shower {
  std::string operator()(std::monostate) const { return "null"; }
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(int64_t value) const { return StrCat(value); }
  std::string operator()(uint64_t value) const { return StrCat(value); }
  std::string operator()(double value) const { return StrCat(value); }
  std::string operator()(const std::string& text) const { return ShowOne(text); }
  template <class Item>
  std::string operator()(const std::vector<Item>& items) const {
    return ShowList(items);
  }
  std::string operator()(const TokenBiases& biases) const {
    return StrCat("an object of ", biases.size(), " numbers");
  }
};

[[noreturn]] void Refuse(std::string_view name, const OptionValue& value,
                         std::string_view accepted) {
  throw Error(ENGINERY_INVALID_ARGUMENT, StrCat(name, " = ", Show(value), ": must be ", accepted));
}

template <class Number>
std::optional<Number> Parse(const std::string& text) {
  Number value;
  const char* const end = text.data() + text.size();
  const std::from_chars_result result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

OptionValue NumberFromJson(const std::string& text) {
  if (text.find_first_of(".eE") == std::string::npos) {
    if (const auto value = Parse<int64_t>(text)) return *value;
    if (const auto value = Parse<uint64_t>(text)) return *value;
  }
  if (const auto value = Parse<double>(text)) return *value;
  throw Error(ENGINERY_INVALID_ARGUMENT, StrCat(CutText(text), ": is beyond every number type"));
}

OptionValue ListFromJson(const std::vector<Json>& items) {
  if (std::ranges::all_of(items, &Json::is_string)) {
    std::vector<std::string> texts;
    for (const Json& item : items) texts.push_back(item.text);
    return texts;
  }
  std::vector<int32_t> ids;
  for (const Json& item : items) {
    const auto id = item.kind == Json::Kind::kNumber ? Parse<int32_t>(item.text) : std::nullopt;
    if (!id) {
      throw Error(ENGINERY_INVALID_ARGUMENT, "a list must hold texts or 32-bit integers alone");
    }
    ids.push_back(*id);
  }
  return ids;
}

// A token has one name: "05" and "5 " are none.
std::optional<int32_t> TokenIdOfName(const std::string& name) {
  const std::optional<int32_t> token_id = Parse<int32_t>(name);
  return token_id && *token_id >= 0 && StrCat(*token_id) == name ? token_id : std::nullopt;
}

TokenBiases BiasesFromJson(const Json& object) {
  TokenBiases biases;
  for (const auto& [name, value] : object.members) {
    const std::optional<int32_t> token_id = TokenIdOfName(name);
    if (!token_id || value.kind != Json::Kind::kNumber) {
      throw Error(ENGINERY_INVALID_ARGUMENT,
                  StrCat(ShowOne(name), ": an object must map token ids to numbers"));
    }
    biases[*token_id] = AsReal(name, NumberFromJson(value.text));
  }
  return biases;
}

// NaN for what is no number.
double AsDouble(const OptionValue& value) {
  if (const auto* truth = std::get_if<bool>(&value)) return *truth ? 1 : 0;
  if (const auto* integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
  if (const auto* integer = std::get_if<uint64_t>(&value)) return static_cast<double>(*integer);
  if (const auto* real = std::get_if<double>(&value)) return *real;
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

OptionValue FromJson(const Json& json) {
  switch (json.kind) {
    case Json::Kind::kNull:
      return std::monostate();
    case Json::Kind::kBool:
      return json.truth;
    case Json::Kind::kNumber:
      return NumberFromJson(json.text);
    case Json::Kind::kString:
      return json.text;
    case Json::Kind::kArray:
      return ListFromJson(json.items);
    case Json::Kind::kObject:
      break;
  }
  return BiasesFromJson(json);
}

bool IsSame(const OptionValue& a, const OptionValue& b) {
  return a == b || AsDouble(a) == AsDouble(b);
}

std::string Show(const OptionValue& value) { return std::visit(Shower(), value); }

int64_t AsInteger(std::string_view name, const OptionValue& value, int64_t low, int64_t high,
                  std::string_view accepted) {
  const int64_t* const number = std::get_if<int64_t>(&value);
  if (number == nullptr || *number < low || *number > high) Refuse(name, value, accepted);
  return *number;
}

uint64_t AsSeed(std::string_view name, const OptionValue& value) {
  if (const auto* number = std::get_if<uint64_t>(&value)) return *number;
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  return static_cast<uint64_t>(AsInteger(name, value, 0, kMax, "an integer in 0 .. 2**64 - 1"));
}

float AsReal(std::string_view name, const OptionValue& value) {
  const double number = AsDouble(value);
  // A double beyond float's range would be infinity, or undefined to convert.
  const bool is_real = std::abs(number) <= std::numeric_limits<float>::max();
  if (std::holds_alternative<bool>(value) || !is_real) {
    Refuse(name, value, "a finite number");
  }
  return static_cast<float>(number);
}

bool AsBool(std::string_view name, const OptionValue& value) {
  const bool* const truth = std::get_if<bool>(&value);
  if (truth == nullptr) Refuse(name, value, "true or false");
  return *truth;
}

std::vector<std::string> AsTexts(std::string_view name, const OptionValue& value) {
  std::vector<std::string> texts;
  if (const auto* list = std::get_if<std::vector<std::string>>(&value)) {
    texts = *list;
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    texts = {*text};
  } else if (!std::holds_alternative<std::monostate>(value)) {
    Refuse(name, value, "texts that are not empty");
  }
  if (std::ranges::any_of(texts, &std::string::empty)) {
    Refuse(name, value, "texts that are not empty");
  }
  return texts;
}

std::vector<int32_t> AsTokenIds(std::string_view name, const OptionValue& value) {
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&value)) return *ids;
  // JSON's [] is a list of anything.
  const auto* texts = std::get_if<std::vector<std::string>>(&value);
  if (texts == nullptr || !texts->empty()) Refuse(name, value, "a list of token ids");
  return {};
}

TokenBiases AsTokenBiases(std::string_view name, const OptionValue& value) {
  if (std::holds_alternative<std::monostate>(value)) return {};
  const auto* biases = std::get_if<TokenBiases>(&value);
  if (biases == nullptr) Refuse(name, value, "an object that maps token ids to numbers");
  return *biases;
}

}  // namespace enginery::triton
