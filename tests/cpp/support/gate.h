// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "support/fake_executor.h"

namespace enginery::test {

// Holds the executor before each step until it is opened.
class Gate {
 public:
  void AttachTo(FakeExecutor* executor) {
    executor->before_step = [](void* gate) { static_cast<Gate*>(gate)->Pass(); };
    executor->before_step_user = this;
  }
  void Open() {
    const std::lock_guard lock(mutex_);
    is_open_ = true;
    changed_.notify_all();
  }
  // One step more.
  void LetPass() {
    const std::lock_guard lock(mutex_);
    ++num_allowed_;
    changed_.notify_all();
  }
  void WaitUntilReached(int64_t times = 1) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return num_reached_ >= times; });
  }
  // Waits until it may.
  void Pass() {
    std::unique_lock lock(mutex_);
    ++num_reached_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return is_open_ || num_allowed_ > 0; });
    if (num_allowed_ > 0) --num_allowed_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_open_ = false;
  int64_t num_reached_ = 0;
  int64_t num_allowed_ = 0;
};

}  // namespace enginery::test
