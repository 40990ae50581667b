// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_CALL_GUARD_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_CALL_GUARD_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>

#include "base/periodic_thread.h"

namespace enginery::triton {

// Notices that one of a thread's calls does not return. It counts rounds of a thread of its own and
// not time, of which much may pass while the process is stopped.
class CallGuard {
 public:
  // `on_stuck`, which must not throw, is called again in each round after the first `max_rounds`.
  CallGuard(std::chrono::milliseconds period, int max_rounds, std::function<void()> on_stuck)
      : thread_(period, [this, max_rounds, on_stuck = std::move(on_stuck)] {
          const uint64_t now = num_changes_.load(std::memory_order_relaxed);
          num_rounds_ = now % 2 == 1 && now == seen_ ? num_rounds_ + 1 : 0;
          seen_ = now;
          if (num_rounds_ >= max_rounds) on_stuck();
        }) {}

  // A call lasts as long as this object. One at a time.
  class Call {
   public:
    explicit Call(CallGuard& guard) : guard_(guard) { ++guard_.num_changes_; }
    ~Call() { ++guard_.num_changes_; }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    CallGuard& guard_;
  };

 private:
  std::atomic<uint64_t> num_changes_ = 0;  // odd: a call lasts
  uint64_t seen_ = 0;
  int num_rounds_ = 0;
  PeriodicThread thread_;  // last: it uses the others
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_CALL_GUARD_H_
