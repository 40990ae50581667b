// SPDX-License-Identifier: Apache-2.0
//
// Where exceptions become status codes: every function of the C interface that can fail runs its
// body in Guard, and nothing thrown leaves the library.
//
//   enginery_status enginery_engine_open(const char* path, enginery_engine** engine) {
//     return Guard([&] {
//       RequireArgument(path != nullptr, "path is NULL; pass an engine directory");
//       ...throws Error, std::bad_alloc...
//     });
//   }
#ifndef ENGINERY_SRC_API_STATUS_H_
#define ENGINERY_SRC_API_STATUS_H_

#include <string_view>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "enginery/enginery.h"

namespace enginery {

// Sets the calling thread's message (enginery_last_error) and returns `status`, which must not be
// ENGINERY_OK.
enginery_status Fail(enginery_status status, std::string_view message) noexcept;

// The status of the exception in flight, whose message becomes the thread's last error. Call it in
// a catch block only.
enginery_status TranslateException() noexcept;

// Runs `body` and returns ENGINERY_OK, or the status it returns (which it must have set through
// Fail), or the status of what it threw: Error as it says, std::bad_alloc ENGINERY_OUT_OF_MEMORY,
// anything else ENGINERY_INTERNAL.
template <class F>
enginery_status Guard(F&& body) noexcept {
  try {
    if constexpr (std::is_void_v<std::invoke_result_t<F>>) {
      std::forward<F>(body)();
      return ENGINERY_OK;
    } else {
      return std::forward<F>(body)();
    }
  } catch (...) {
    return TranslateException();
  }
}

// Throws Error(ENGINERY_INVALID_ARGUMENT, message) unless `holds`.
inline void RequireArgument(bool holds, const char* message) {
  if (!holds) throw Error(ENGINERY_INVALID_ARGUMENT, message);
}

}  // namespace enginery

#endif  // ENGINERY_SRC_API_STATUS_H_
