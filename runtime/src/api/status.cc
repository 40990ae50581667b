// SPDX-License-Identifier: Apache-2.0
#include "api/status.h"

#include <exception>
#include <new>
#include <string>

namespace enginery {
namespace {

// `text` unless memory for the message itself ran out: then `fallback`, a literal.
struct LastError {
  std::string text;
  const char* fallback = nullptr;
};

LastError& ThreadLastError() {
  static thread_local LastError last_error;
  return last_error;
}

}  // namespace

enginery_status Fail(enginery_status status, std::string_view message) noexcept {
  LastError& last = ThreadLastError();
  try {
    last.text.assign(message);
    last.fallback = nullptr;
  } catch (...) {
    last.fallback = "out of memory while writing the error message";
  }
  return status;
}

enginery_status TranslateException() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return Fail(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return Fail(ENGINERY_OUT_OF_MEMORY, "out of memory: the process could not allocate");
  } catch (const std::exception& error) {
    return Fail(ENGINERY_INTERNAL, error.what());
  } catch (...) {
    return Fail(ENGINERY_INTERNAL, "an exception of an unknown type; this is a bug in Enginery");
  }
}

}  // namespace enginery

extern "C" const char* enginery_last_error(void) {
  const enginery::LastError& last = enginery::ThreadLastError();
  return last.fallback != nullptr ? last.fallback : last.text.c_str();
}

extern "C" const char* enginery_status_name(enginery_status status) {
  switch (status) {
#define ENGINERY_NAME_CASE(name) \
  case ENGINERY_##name:          \
    return #name;
    ENGINERY_NAME_CASE(OK)
    ENGINERY_NAME_CASE(INVALID_ARGUMENT)
    ENGINERY_NAME_CASE(NOT_FOUND)
    ENGINERY_NAME_CASE(IO_ERROR)
    ENGINERY_NAME_CASE(BAD_MAGIC)
    ENGINERY_NAME_CASE(UNSUPPORTED_VERSION)
    ENGINERY_NAME_CASE(TRUNCATED)
    ENGINERY_NAME_CASE(INVALID_HEADER)
    ENGINERY_NAME_CASE(CHECKSUM_MISMATCH)
    ENGINERY_NAME_CASE(INVALID_SECTION)
    ENGINERY_NAME_CASE(MISSING_SECTION)
    ENGINERY_NAME_CASE(INVALID_PROGRAM)
    ENGINERY_NAME_CASE(INVALID_TENSOR)
    ENGINERY_NAME_CASE(INVALID_TOKEN_BYTES)
    ENGINERY_NAME_CASE(WRONG_TARGET)
    ENGINERY_NAME_CASE(UNSUPPORTED_OP)
    ENGINERY_NAME_CASE(RANK_MISMATCH)
    ENGINERY_NAME_CASE(QUEUE_FULL)
    ENGINERY_NAME_CASE(SHUT_DOWN)
    ENGINERY_NAME_CASE(OUT_OF_MEMORY)
    ENGINERY_NAME_CASE(EXECUTOR_FAILED)
    ENGINERY_NAME_CASE(NOT_SUPPORTED)
    ENGINERY_NAME_CASE(INTERNAL)
#undef ENGINERY_NAME_CASE
  }
  return "UNKNOWN";
}
