// SPDX-License-Identifier: Apache-2.0
//
// A value that a client gave for an option, as a tensor or in JSON: one form for both.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_OPTION_VALUE_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_OPTION_VALUE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "json.h"

namespace enginery::triton {

// What is added to the logits of tokens, by token id.
using TokenBiases = std::map<int32_t, float>;

// std::monostate: null. An integer is int64_t where it fits and else uint64_t.
using OptionValue =
    std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, std::vector<int32_t>,
                 std::vector<float>, std::vector<std::string>, TokenBiases>;

// Throws Error (INVALID_ARGUMENT) for what no option is: an object that does not map token ids to
// numbers, a number that no type holds, a list of anything but texts or 32-bit integers.
OptionValue FromJson(const Json& json);

// Whether they are equal, where 1, 1.0 and true are one value as in Python.
bool IsSame(const OptionValue& a, const OptionValue& b);

// For messages; long values are cut.
std::string Show(const OptionValue& value);

// The value in another type. Throws Error (INVALID_ARGUMENT): "name = value: must be accepted".
int64_t AsInteger(std::string_view name, const OptionValue& value, int64_t low, int64_t high,
                  std::string_view accepted);
uint64_t AsSeed(std::string_view name, const OptionValue& value);
float AsReal(std::string_view name, const OptionValue& value);
bool AsBool(std::string_view name, const OptionValue& value);
// Null is the empty list, and one text a list of it.
std::vector<std::string> AsTexts(std::string_view name, const OptionValue& value);
std::vector<int32_t> AsTokenIds(std::string_view name, const OptionValue& value);
// Null is none.
TokenBiases AsTokenBiases(std::string_view name, const OptionValue& value);

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_OPTION_VALUE_H_
