// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_SRC_BASE_PERIODIC_THREAD_H_
#define ENGINERY_SRC_BASE_PERIODIC_THREAD_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

namespace enginery {

// Calls a function, which must not throw, again and again until it is destroyed, which waits for a
// call in progress.
class PeriodicThread {
 public:
  PeriodicThread(std::chrono::milliseconds period, std::function<void()> call)
      : thread_([this, period, call = std::move(call)](const std::stop_token& stop) {
          std::unique_lock lock(mutex_);
          while (!changed_.wait_for(lock, stop, period, [&] { return stop.stop_requested(); })) {
            call();
          }
        }) {}

 private:
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::jthread thread_;  // last: it uses the others
};

}  // namespace enginery

#endif  // ENGINERY_SRC_BASE_PERIODIC_THREAD_H_
