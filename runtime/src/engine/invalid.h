// SPDX-License-Identifier: Apache-2.0
//
// Wording of the reader's errors: which field, what it holds, what is accepted.
#ifndef ENGINERY_SRC_ENGINE_INVALID_H_
#define ENGINERY_SRC_ENGINE_INVALID_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/str_cat.h"

namespace enginery {

// `text` in quotes, fit for a message whatever bytes it holds: what is not printable ASCII as \xNN,
// long text cut.
std::string Quoted(std::string_view text);

// "<field> is <value>; accepted: <accepted>".
template <class Value>
[[noreturn]] void ThrowInvalid(enginery_status status, std::string_view field, const Value& value,
                               std::string_view accepted) {
  throw Error(status, StrCat(field, " is ", value, "; accepted: ", accepted));
}

// Throws unless low <= value <= high.
inline void RequireRange(enginery_status status, std::string_view field, uint64_t value,
                         uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return;
  ThrowInvalid(status, field, value, low == high ? StrCat(low) : StrCat(low, "..", high));
}

}  // namespace enginery

#endif  // ENGINERY_SRC_ENGINE_INVALID_H_
