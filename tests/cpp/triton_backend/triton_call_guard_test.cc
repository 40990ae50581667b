// SPDX-License-Identifier: Apache-2.0
//
// Calls that return are left alone however many there are; one that does not is told.
#include <atomic>
#include <chrono>
#include <thread>

#include "check.h"
#include "native/call_guard.h"

namespace enginery::triton {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPeriod(5);
constexpr int kMaxRounds = 4;

void WaitFor(const std::atomic<int>& count) {
  while (count == 0) std::this_thread::sleep_for(kPeriod);
}

TEST(CallsThatReturnAreLeftAlone) {
  std::atomic<int> num_stuck = 0;
  // So many rounds that no call of this test lasts for them, however busy the machine.
  CallGuard guard(milliseconds(1), 5000, [&] { ++num_stuck; });
  for (int i = 0; i < 200; ++i) {
    const CallGuard::Call call(guard);
    std::this_thread::sleep_for(milliseconds(1));
  }
  CHECK_EQ(num_stuck.load(), 0);
}

TEST(NoCallIsNoStuckCall) {
  std::atomic<int> num_stuck = 0;
  CallGuard guard(kPeriod, kMaxRounds, [&] { ++num_stuck; });
  std::this_thread::sleep_for(10 * kMaxRounds * kPeriod);
  {
    const CallGuard::Call call(guard);
  }
  std::this_thread::sleep_for(10 * kMaxRounds * kPeriod);
  CHECK_EQ(num_stuck.load(), 0);
}

TEST(CallThatDoesNotReturnIsTold) {
  std::atomic<int> num_stuck = 0;
  CallGuard guard(kPeriod, kMaxRounds, [&] { ++num_stuck; });
  const auto begin = std::chrono::steady_clock::now();
  const CallGuard::Call call(guard);
  WaitFor(num_stuck);
  CHECK(std::chrono::steady_clock::now() - begin >= kMaxRounds * kPeriod);
}

}  // namespace
}  // namespace enginery::triton
