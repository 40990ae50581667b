// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_API_RUNTIME_HANDLE_H_
#define ENGINERY_SRC_API_RUNTIME_HANDLE_H_

#include <memory>
#include <string>

#include "core/runtime.h"
#include "engine/engine.h"
#include "enginery/enginery.h"
#include "exec/profiler.h"

// What an enginery_runtime* points to.
struct enginery_runtime {
  std::shared_ptr<const enginery::Engine> engine;  // the token bytes and weights in use
  std::string executor_name;
  std::shared_ptr<enginery::Profiler> profiler;  // null: not the built-in executor
  std::unique_ptr<enginery::Runtime> runtime;
};

#endif  // ENGINERY_SRC_API_RUNTIME_HANDLE_H_
