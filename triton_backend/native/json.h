// SPDX-License-Identifier: Apache-2.0
//
// A strict reader of JSON (RFC 8259): config.pbtxt as Triton server hands it over, and
// `sampling_parameters` as clients send it.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_JSON_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_JSON_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace enginery::triton {

struct Json {
  enum class Kind : uint8_t { kNull, kBool, kNumber, kString, kArray, kObject };

  Kind kind = Kind::kNull;
  bool truth = false;
  std::string text;  // of a string; of a number as it was written, so that no digit is lost
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;  // no name twice

  bool is_object() const { return kind == Kind::kObject; }
  bool is_array() const { return kind == Kind::kArray; }
  bool is_string() const { return kind == Kind::kString; }
  // NULL when there is no such member, or this is no object.
  const Json* Find(std::string_view name) const;
};

// Throws Error (INVALID_ARGUMENT), whose message says what is wrong at which byte: text that is not
// UTF-8 or no JSON, a lone surrogate, a name twice in one object, more than 64 levels.
Json ParseJson(std::string_view text);

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_JSON_H_
