// SPDX-License-Identifier: Apache-2.0
//
// A runtime over the fake executor that checks at its end that no promise was broken.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "support/gate.h"
#include "support/runtime_fixture.h"

namespace enginery::test {

struct Fixture {
  explicit Fixture(const FixtureOptions& options = {}, Runtime::OnEvent on_event = nullptr)
      : executor(kVocabSize, options.num_blocks),
        config(MakeConfig(options)),
        handler(std::move(on_event)) {}
  ~Fixture() {
    runtime.reset();
    for (const std::string& error : executor.errors) fail(__FILE__, __LINE__, error);
    CHECK_EQ(executor.num_destroyed, was_started ? 1 : 0);
  }
  Runtime& Start() {
    runtime = std::make_unique<Runtime>(config, executor.table(), handler, on_stall);
    was_started = true;
    return *runtime;
  }

  FakeExecutor executor;
  RuntimeConfig config;
  Runtime::OnEvent handler;
  Watchdog::OnStall on_stall;
  std::unique_ptr<Runtime> runtime;
  bool was_started = false;
};

inline TestRequest Endless(std::vector<int32_t> prompt, int64_t max_tokens) {
  TestRequest request(std::move(prompt), max_tokens);
  request.fields.ignore_eos = 1;
  return request;
}

}  // namespace enginery::test
