// SPDX-License-Identifier: Apache-2.0
#include "exec/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "exec/affinity.h"

namespace enginery::test {
namespace {

TEST(every_task_runs_once_on_a_known_thread) {
  for (const int num_threads : {1, 2, 3, 8}) {
    ThreadPool pool(num_threads);
    CHECK_EQ(pool.num_threads(), num_threads);
    for (const int64_t num_tasks : {0, 1, 2, 3, 7, 100, 5000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(num_tasks));
      std::atomic<int> strangers{0};
      pool.ParallelFor(num_tasks, [&](int64_t task, int thread) {
        runs[static_cast<size_t>(task)].fetch_add(1);
        if (thread < 0 || thread >= num_threads) strangers.fetch_add(1);
      });
      for (const std::atomic<int>& count : runs) CHECK_EQ(count.load(), 1);
      CHECK_EQ(strangers.load(), 0);
    }
  }
}

// Loops so short that workers are late for most of them: none may run a task of another loop or be
// waited for.
TEST(many_short_loops_do_not_mix) {
  ThreadPool pool(3);
  for (int64_t loop = 0; loop < 20000; ++loop) {
    const int64_t num_tasks = 2 + loop % 5;
    int64_t seen[6] = {};
    pool.ParallelFor(num_tasks, [&](int64_t task, int) { seen[task] = loop + 1; });
    for (int64_t task = 0; task < num_tasks; ++task) CHECK_EQ(seen[task], loop + 1);
  }
}

// Two threads in one region at once see each other's writes only if they really run side by side.
TEST(workers_wake_after_parking) {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the worker parks meanwhile
    std::atomic<int> arrived{0};
    pool.ParallelFor(2, [&](int64_t, int) {
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
    });
    CHECK_EQ(arrived.load(), 2);
  }
}

// Each thread of a loop that waits for all of them tells where it may run.
std::vector<std::vector<int>> CpusOfThreads(ThreadPool& pool) {
  std::vector<std::vector<int>> cpus(static_cast<size_t>(pool.num_threads()));
  std::atomic<int> arrived{0};
  pool.ParallelFor(pool.num_threads(), [&](int64_t, int thread) {
    cpus[static_cast<size_t>(thread)] = UsableCpus();
    arrived.fetch_add(1);
    while (arrived.load() < pool.num_threads()) std::this_thread::yield();
  });
  return cpus;
}

TEST(pinned_threads_have_a_cpu_each) {
  const std::vector<int> usable = UsableCpus();
  const int num_threads = std::max(2, static_cast<int>(usable.size()));
  if (usable.size() < 2) {
    CHECK_THROWS_WITH(ThreadPool(num_threads, true), Error, "1 CPUs");
    return;
  }
  std::thread([&] {  // the test's own thread stays free
    ThreadPool pool(num_threads, true);
    pool.PinCaller();
    std::vector<int> held;
    for (const std::vector<int>& cpus : CpusOfThreads(pool)) {
      REQUIRE_EQ(cpus.size(), 1);
      held.push_back(cpus[0]);
    }
    CHECK(held == usable);
  })
      .join();
  CHECK(UsableCpus() == usable);
}

TEST(threads_that_are_not_pinned_run_anywhere) {
  ThreadPool pool(2);
  pool.PinCaller();
  for (const std::vector<int>& cpus : CpusOfThreads(pool)) CHECK(cpus == UsableCpus());
}

TEST(more_pinned_threads_than_cpus_are_refused) {
  const int num_cpus = static_cast<int>(UsableCpus().size());
  CHECK_THROWS_WITH(ThreadPool(num_cpus + 1, true), Error, "pin_threads");
}

TEST(there_is_a_cpu_to_use) { CHECK_GE(ThreadPool::NumUsableCpus(), 1); }

}  // namespace
}  // namespace enginery::test
