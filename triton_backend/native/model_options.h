// SPDX-License-Identifier: Apache-2.0
//
// The `parameters` of config.pbtxt, in the keys of triton_backend/options.py.
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_MODEL_OPTIONS_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_MODEL_OPTIONS_H_

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "enginery/enginery.h"
#include "request_log.h"

namespace enginery::triton {

struct ModelOptions {
  std::string engine_dir;
  std::string isa;           // "": ENGINERY_ISA or auto
  std::string watchdog_dir;  // "": the folder for temporary files
  LogFormat log_requests = LogFormat::kOff;
  // What has no pointers; the rest keeps its defaults.
  enginery_runtime_options runtime;

  ModelOptions();
  // For enginery_runtime_create; points into this object.
  enginery_runtime_options View() const;
};

// Throws Error (INVALID_ARGUMENT) that lists every unknown key, every value that is not accepted
// and every key that only the Python backend reads.
ModelOptions ReadModelOptions(const std::map<std::string, std::string>& parameters);

// The value of a parameter that is on or off. Throws Error (INVALID_ARGUMENT) that names it.
bool ReadFlag(std::string_view name, const std::string& text);

// The keys that are read, and those that are refused as the Python backend's.
std::span<const std::string_view> ModelParameterNames();
std::span<const std::string_view> PythonParameterNames();

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_MODEL_OPTIONS_H_
