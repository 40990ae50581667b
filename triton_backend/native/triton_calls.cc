// SPDX-License-Identifier: Apache-2.0
#include "triton_calls.h"

#include "base/str_cat.h"

namespace enginery::triton {

void Check(TRITONSERVER_Error* error) {
  if (error == nullptr) return;
  const std::string message = TRITONSERVER_ErrorMessage(error);
  TRITONSERVER_ErrorDelete(error);
  throw Error(ENGINERY_INTERNAL, message);
}

bool LogError(TRITONSERVER_Error* error, std::string_view while_doing) {
  if (error == nullptr) return true;
  Log(TRITONSERVER_LOG_WARN, StrCat(while_doing, ": ", TRITONSERVER_ErrorMessage(error)));
  TRITONSERVER_ErrorDelete(error);
  return false;
}

void Log(TRITONSERVER_LogLevel level, const std::string& message) {
  TRITONSERVER_Error* const error = TRITONSERVER_LogMessage(level, "enginery", 0, message.c_str());
  if (error != nullptr) TRITONSERVER_ErrorDelete(error);
}

TRITONSERVER_Error* ToTriton(enginery_status status, std::string_view message) {
  switch (status) {
    case ENGINERY_INVALID_ARGUMENT:
    case ENGINERY_NOT_FOUND:
      return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INVALID_ARG, std::string(message).c_str());
    case ENGINERY_QUEUE_FULL:
      return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE,
                                   StrCat(message, "; retry after 1 s").c_str());
    case ENGINERY_SHUT_DOWN:
      return TRITONSERVER_ErrorNew(
          TRITONSERVER_ERROR_UNAVAILABLE,
          StrCat(message, "; retry when the model is ready again, or on another server").c_str());
    default:
      return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, std::string(message).c_str());
  }
}

void CheckRuntime(enginery_status status) {
  if (status != ENGINERY_OK) throw Error(status, enginery_last_error());
}

}  // namespace enginery::triton
