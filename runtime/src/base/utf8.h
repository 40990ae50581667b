// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_BASE_UTF8_H_
#define ENGINERY_SRC_BASE_UTF8_H_

#include <string_view>

namespace enginery {

// Whether `text` is well-formed UTF-8 (The Unicode Standard, table 3-7): no overlong forms, no
// surrogates, nothing above U+10FFFF, no character cut off.
bool IsUtf8(std::string_view text);

}  // namespace enginery

#endif  // ENGINERY_SRC_BASE_UTF8_H_
