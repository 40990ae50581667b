// SPDX-License-Identifier: Apache-2.0
//
// Malformed files as rows: what is broken, and how the reader must refuse it. Each row starts from
// a valid file, and its checksums are made right again after the change, so that the check meant is
// the one that is reached.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "engine/engine_file.h"
#include "support/aligned_bytes.h"
#include "support/engine_builder.h"
#include "support/file_map.h"
#include "support/tiny_engine.h"

namespace enginery::test {

struct Refusal {
  std::string name;
  std::function<void(AlignedBytes& file, const FileMap& map)> break_it;
  enginery_status status;
  std::string message_part;
};

// "ok", or status and message with which `file` is refused.
inline std::string OpenResult(const AlignedBytes& file, enginery_status* status) {
  try {
    EngineFile::FromMemory(file, "test.engine");
    *status = ENGINERY_OK;
    return "ok";
  } catch (const Error& error) {
    *status = error.status();
    return error.what();
  }
}

inline void CheckRefused(const std::string& name, const AlignedBytes& file,
                         enginery_status expected, const std::string& message_part) {
  enginery_status status;
  const std::string message = OpenResult(file, &status);
  const auto contains = [&](const std::string& part) {
    return message.find(part) != std::string::npos;
  };
  if (status != expected || !contains(message_part) || !contains("test.engine: ")) {
    fail(__FILE__, __LINE__,
         name + ": expected " + enginery_status_name(expected) + " with \"" + message_part +
             "\", got " + enginery_status_name(status) + " \"" + message + "\"");
  }
}

inline void CheckRefusals(const std::vector<Refusal>& refusals) {
  const AlignedBytes valid = TinyEngine().Build();
  enginery_status status;
  CHECK_EQ(OpenResult(valid, &status), "ok");
  const FileMap map(valid);
  for (const Refusal& refusal : refusals) {
    AlignedBytes file = valid;
    refusal.break_it(file, map);
    Rehash(file);
    CheckRefused(refusal.name, file, refusal.status, refusal.message_part);
  }
}

// A row that writes one number. `at` picks its place.
template <class T>
Refusal Sets(std::string name, std::function<size_t(const FileMap&)> at, T value,
             enginery_status status, std::string message_part) {
  return {std::move(name),
          [=](AlignedBytes& file, const FileMap& map) { Put(file, at(map), value); }, status,
          std::move(message_part)};
}

}  // namespace enginery::test
