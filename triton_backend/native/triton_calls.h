// SPDX-License-Identifier: Apache-2.0
//
// Triton server's errors as exceptions and back.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_TRITON_CALLS_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_TRITON_CALLS_H_

#include <string>
#include <string_view>

#include "base/error.h"
#include "triton_api.h"

namespace enginery::triton {

// Takes the error; throws Error (INTERNAL) unless it is NULL.
void Check(TRITONSERVER_Error* error);

// Takes the error and writes it to the log unless it is NULL: for calls after which there is
// nothing to undo. False when there was one.
bool LogError(TRITONSERVER_Error* error, std::string_view while_doing);

void Log(TRITONSERVER_LogLevel level, const std::string& message);

// A new error, with the code that clients of Triton server know and, where it helps, when to try
// again.
TRITONSERVER_Error* ToTriton(enginery_status status, std::string_view message);

// What the C interface's last call on this thread said; throws it unless the status is OK.
void CheckRuntime(enginery_status status);

// Runs `body` and turns what it throws into an error for Triton server.
template <class Body>
TRITONSERVER_Error* Guard(const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Error& error) {
    return ToTriton(error.status(), error.what());
  } catch (const std::exception& error) {
    return ToTriton(ENGINERY_INTERNAL, error.what());
  }
}

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_TRITON_CALLS_H_
