// SPDX-License-Identifier: Apache-2.0
#include "request_reader.h"

#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/str_cat.h"
#include "base/utf8.h"
#include "json.h"

namespace enginery::triton {
namespace {

constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();

[[noreturn]] void Refuse(std::string_view name, std::string_view problem) {
  throw Error(ENGINERY_INVALID_ARGUMENT, StrCat(name, ": ", problem));
}

template <class Number>
Number Load(const std::byte* from) {
  Number value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

uint64_t NumElements(const InputTensor& tensor) {
  uint64_t count = 1;
  for (const int64_t dim : tensor.shape) {
    if (dim < 0) Refuse(tensor.name, StrCat("a dimension is ", dim, "; none may be negative"));
    if (__builtin_mul_overflow(count, static_cast<uint64_t>(dim), &count)) {
      Refuse(tensor.name, "the shape has more elements than fit into 64 bits");
    }
  }
  return count;
}

template <class Number>
std::vector<Number> ReadNumbers(const InputTensor& tensor) {
  const uint64_t count = NumElements(tensor);
  if (tensor.data.size() % sizeof(Number) != 0 || tensor.data.size() / sizeof(Number) != count) {
    Refuse(tensor.name, StrCat("has ", tensor.data.size(), " bytes for ", count, " values of ",
                               sizeof(Number), " bytes"));
  }
  std::vector<Number> values(count);
  if (count > 0) std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

// Each text is its length in four bytes, little-endian as this machine, and then its bytes.
std::vector<std::string> ReadTexts(const InputTensor& tensor) {
  const uint64_t count = NumElements(tensor);
  std::vector<std::string> texts;
  std::span<const std::byte> rest = tensor.data;
  while (!rest.empty()) {
    if (rest.size() < sizeof(uint32_t)) Refuse(tensor.name, "ends within the length of a text");
    const uint32_t num_bytes = Load<uint32_t>(rest.data());
    rest = rest.subspan(sizeof(uint32_t));
    if (num_bytes > rest.size()) {
      Refuse(tensor.name, StrCat("a text of ", num_bytes, " bytes has ", rest.size(), " left"));
    }
    texts.emplace_back(reinterpret_cast<const char*>(rest.data()), num_bytes);
    if (!IsUtf8(texts.back())) Refuse(tensor.name, "is not UTF-8");
    rest = rest.subspan(num_bytes);
  }
  if (texts.size() != count) {
    Refuse(tensor.name, StrCat("has ", texts.size(), " texts; its shape says ", count));
  }
  return texts;
}

template <class Item>
Item& OnlyOne(const InputTensor& tensor, std::vector<Item>& items) {
  if (items.size() != 1) Refuse(tensor.name, StrCat("has ", items.size(), " values; give one"));
  return items[0];
}

template <class Number>
Number ReadNumber(const InputTensor& tensor) {
  std::vector<Number> values = ReadNumbers<Number>(tensor);
  return OnlyOne(tensor, values);
}

bool ReadBool(const InputTensor& tensor) {
  const uint8_t value = ReadNumber<uint8_t>(tensor);
  if (value > 1) Refuse(tensor.name, StrCat("the byte ", value, " is no BOOL; give 0 or 1"));
  return value == 1;
}

OptionValue ReadValue(const TensorSpec& spec, const InputTensor& tensor) {
  if (tensor.type != spec.type) {
    Refuse(tensor.name,
           StrCat("is of ", DataTypeName(tensor.type), "; must be ", DataTypeName(spec.type)));
  }
  switch (spec.type) {
    case DataType::kString: {
      std::vector<std::string> texts = ReadTexts(tensor);
      if (spec.is_list) return texts;
      return std::move(OnlyOne(tensor, texts));
    }
    case DataType::kInt32:
      if (spec.is_list) return ReadNumbers<int32_t>(tensor);
      return int64_t{ReadNumber<int32_t>(tensor)};
    case DataType::kInt64:
      return ReadNumber<int64_t>(tensor);
    case DataType::kUint64: {
      const uint64_t value = ReadNumber<uint64_t>(tensor);
      if (value <= static_cast<uint64_t>(kMaxInt64)) return static_cast<int64_t>(value);
      return value;
    }
    case DataType::kFp32:
      return double{ReadNumber<float>(tensor)};
    case DataType::kBool:
      return ReadBool(tensor);
    case DataType::kOther:
      break;
  }
  Refuse(tensor.name, "is of a type that no input has");
}

// The inputs that a request has, by name.
class Values {
 public:
  explicit Values(std::span<const InputTensor> tensors) {
    for (const InputTensor& tensor : tensors) {
      const TensorSpec* const spec = FindTensor(Inputs(), tensor.name);
      if (spec == nullptr) Refuse(tensor.name, "the model has no such input");
      if (!values_.try_emplace(spec->name, ReadValue(*spec, tensor)).second) {
        Refuse(tensor.name, "is given twice");
      }
    }
  }

  // NULL when it was not given.
  const OptionValue* Find(std::string_view name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? nullptr : &found->second;
  }

  // Of an input that has two names.
  const OptionValue* FindEither(std::string_view name, std::string_view alias) const {
    const OptionValue* const first = Find(name);
    const OptionValue* const second = Find(alias);
    if (first != nullptr && second != nullptr && *first != *second) {
      throw Error(ENGINERY_INVALID_ARGUMENT,
                  StrCat(name, " = ", Show(*first), ", ", alias, " = ", Show(*second),
                         ": two names of one thing; give one of them"));
    }
    return first == nullptr ? second : first;
  }

  bool IsTrue(std::string_view name) const {
    const OptionValue* const value = Find(name);
    return value != nullptr && std::get<bool>(*value);
  }

 private:
  std::map<std::string_view, OptionValue> values_;
};

std::vector<int32_t> ReadPrompt(const Values& values) {
  const OptionValue* const ids = values.Find("input_ids");
  if (values.Find("text_input") != nullptr) {
    if (ids != nullptr) {
      throw Error(ENGINERY_INVALID_ARGUMENT,
                  "text_input, input_ids: both are given; give one of them");
    }
    Refuse("text_input",
           "the native backend has no tokenizer; give token ids as input_ids, or serve with the "
           "Python backend (enginery serve --backend python)");
  }
  if (ids == nullptr) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                "text_input, input_ids: neither is given; give input_ids, the prompt as token ids");
  }
  return std::get<std::vector<int32_t>>(*ids);
}

std::string OptionNames() {
  std::string names;
  for (const TensorSpec& spec : Inputs()) {
    if (!spec.option.empty()) names += StrCat(names.empty() ? "" : ", ", spec.option);
  }
  return names;
}

Json ParseObject(std::string_view text) {
  Json json;
  try {
    json = ParseJson(text);
  } catch (const Error& error) {
    Refuse("sampling_parameters", StrCat("is not JSON: ", error.what()));
  }
  if (!json.is_object()) Refuse("sampling_parameters", "must be a JSON object");
  return json;
}

void ReadJsonOptions(const Values& values, GenerationRequest& request) {
  const OptionValue* const text = values.Find("sampling_parameters");
  if (text == nullptr) return;
  const Json json = ParseObject(std::get<std::string>(*text));
  for (const auto& [name, value] : json.members) {
    const auto refuse = [&name = name](std::string_view problem) {
      Refuse("sampling_parameters", StrCat(name, ": ", problem));
    };
    bool is_option = false;
    for (const TensorSpec& spec : Inputs()) {
      if (spec.option != name) continue;
      is_option = true;
      const bool has_alias = name == "max_tokens" && values.Find("request_output_len") != nullptr;
      if (has_alias || values.Find(spec.name) != nullptr) {
        refuse("is given by an input too; give one of them");
      }
    }
    if (!is_option) refuse(StrCat("there is no such option; there are ", OptionNames()));
    try {
      request.SetOption(name, FromJson(value));
    } catch (const Error& error) {
      refuse(error.what());
    }
  }
}

void ReadOptions(const Values& values, GenerationRequest& request) {
  for (const TensorSpec& spec : Inputs()) {
    if (spec.option.empty()) continue;
    const OptionValue* const value = spec.option == "max_tokens"
                                         ? values.FindEither("max_tokens", "request_output_len")
                                         : values.Find(spec.name);
    if (value != nullptr) request.SetOption(spec.option, *value);
  }
  ReadJsonOptions(values, request);
}

}  // namespace

GenerationRequest ReadRequest(std::span<const InputTensor> inputs) {
  const Values values(inputs);
  GenerationRequest request;
  request.prompt_token_ids = ReadPrompt(values);
  ReadOptions(values, request);
  if (const OptionValue* streams = values.FindEither("stream", "streaming")) {
    request.fields.streaming = std::get<bool>(*streams) ? 1 : 0;
  }
  const OptionValue* const excludes = values.Find("exclude_input_in_output");
  request.responses.repeats_prompt = excludes != nullptr && !std::get<bool>(*excludes);
  request.responses.returns_log_probs = values.IsTrue("return_log_probs");
  request.responses.returns_perf_metrics = values.IsTrue("return_perf_metrics");
  if (const OptionValue* priority = values.Find("priority")) {
    request.fields.priority = static_cast<int32_t>(std::get<int64_t>(*priority));
  }
  if (const OptionValue* timeout = values.Find("timeout_ms")) {
    request.fields.timeout_ms = std::get<int64_t>(*timeout);
  }
  return request;
}

}  // namespace enginery::triton
