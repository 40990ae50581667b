// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_API_ENGINE_HANDLE_H_
#define ENGINERY_SRC_API_ENGINE_HANDLE_H_

#include <memory>

#include "engine/engine.h"
#include "enginery/enginery.h"

// What an enginery_engine* points to. A runtime made from it keeps its own share of `engine`.
struct enginery_engine {
  std::shared_ptr<const enginery::Engine> engine;
};

#endif  // ENGINERY_SRC_API_ENGINE_HANDLE_H_
