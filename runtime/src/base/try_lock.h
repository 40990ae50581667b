// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_BASE_TRY_LOCK_H_
#define ENGINERY_SRC_BASE_TRY_LOCK_H_

#include <chrono>
#include <mutex>
#include <thread>

namespace enginery {

// The lock, or one that owns nothing when `mutex` stays taken for `patience`: who holds it is
// stuck. A std::timed_mutex would say the same, but no std::condition_variable waits with it.
inline std::unique_lock<std::mutex> TryLockFor(std::mutex& mutex,
                                               std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  std::unique_lock lock(mutex, std::try_to_lock);
  while (!lock.owns_lock() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    static_cast<void>(lock.try_lock());
  }
  return lock;
}

}  // namespace enginery

#endif  // ENGINERY_SRC_BASE_TRY_LOCK_H_
