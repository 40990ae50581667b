// SPDX-License-Identifier: Apache-2.0
#include "exec/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <system_error>

#include "base/error.h"
#include "base/str_cat.h"
#include "exec/affinity.h"

namespace enginery {
namespace {

uint64_t NextTask(uint64_t state) { return state & 0xFFFFFFFFu; }
uint64_t EndTask(uint64_t state) { return state >> 32; }
constexpr uint64_t kWithoutFirst = 1, kWithoutLast = ~uint64_t{0} << 32;  // added to a state

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// About 50 microseconds: longer than the serial parts of a step, shorter than what lies between two
// steps.
constexpr int kSpinsBeforeParking = 2000;
// The last tasks of a loop may be on a thread that the system has put aside: let it run.
constexpr int kSpinsBeforeYielding = 2000;

// CPUs' worth of time that a cgroup (version 2) grants; 0 when there is no limit.
int CgroupCpuLimit() {
  std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "re");
  if (file == nullptr) return 0;
  long long quota = 0;
  long long period = 0;
  const int fields = std::fscanf(file, "%lld %lld", &quota, &period);  // "max 100000" reads as none
  std::fclose(file);
  if (fields != 2 || quota <= 0 || period <= 0) return 0;
  return static_cast<int>(std::clamp<long long>((quota + period - 1) / period, 1, 1 << 16));
}

}  // namespace

int ThreadPool::NumUsableCpus() {
  cpu_set_t affinity;
  int num_cpus = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof affinity, &affinity) == 0) num_cpus = CPU_COUNT(&affinity);
  const int limit = CgroupCpuLimit();
  if (limit > 0) num_cpus = std::min(num_cpus, limit);
  return std::max(num_cpus, 1);
}

ThreadPool::ThreadPool(int num_threads, bool pin_threads)
    : shares_(static_cast<size_t>(num_threads)) {
  if (pin_threads) {
    cpus_ = UsableCpus();
    if (cpus_.size() < static_cast<size_t>(num_threads)) {
      throw Error(ENGINERY_INVALID_ARGUMENT,
                  StrCat("pin_threads is 1 with ", num_threads, " threads, and this process may ",
                         "run on ", cpus_.size(),
                         " CPUs; accepted: as many threads as CPUs at most; lower num_threads or "
                         "set pin_threads to 0"));
    }
  }
  workers_.reserve(static_cast<size_t>(num_threads - 1));
  try {
    for (int thread = 1; thread < num_threads; ++thread) {
      workers_.emplace_back([this, thread] { Work(thread); });
    }
  } catch (const std::system_error& error) {
    Stop();
    throw Error(ENGINERY_OUT_OF_MEMORY,
                StrCat("cannot start ", num_threads, " threads: ", std::string_view(error.what())));
  }
  if (pin_threads) PinWorkers();
}

void ThreadPool::PinWorkers() {
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (PinThread(workers_[i].native_handle(), cpus_[i + 1])) continue;
    const int cpu = cpus_[i + 1];
    Stop();
    throw Error(ENGINERY_INVALID_ARGUMENT, StrCat("pin_threads is 1, and the system refuses CPU ",
                                                  cpu, "; set pin_threads to 0"));
  }
}

void ThreadPool::PinCaller() {
  if (cpus_.empty()) return;
  // A mask that shrank meanwhile: the thread stays where the system puts it.
  PinThread(pthread_self(), cpus_[0]);
  cpus_.clear();
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Stop() {
  stop_.store(true);
  wake_.fetch_add(1);
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t num_tasks, TaskFunction function, const void* body) {
  function_ = function;
  body_ = body;
  num_done_.store(0, std::memory_order_relaxed);
  const auto tasks = static_cast<uint64_t>(num_tasks);
  const auto num_shares = static_cast<uint64_t>(shares_.size());
  for (uint64_t s = 0; s < num_shares; ++s) {
    const uint64_t begin = tasks * s / num_shares;
    const uint64_t end = tasks * (s + 1) / num_shares;
    shares_[s].state.store(end << 32 | begin);
  }
  // A worker counts itself before it looks at wake_ for the last time, and both are sequentially
  // consistent: it is seen here, or it sees the new value there. Without parked workers, which is
  // within a step, no system call is made.
  wake_.fetch_add(1);
  if (num_parked_.load() > 0 && num_parked_.exchange(0) > 0) wake_.notify_all();

  RunTasks(0);
  for (int spins = 0; num_done_.load(std::memory_order_acquire) < num_tasks; ++spins) {
    if (spins < kSpinsBeforeYielding) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

int64_t ThreadPool::RunShare(int thread, int owner) {
  // The owner from the front, others from the back: what they take over is what the owner would
  // have come to last.
  const bool is_own = thread == owner;
  std::atomic<uint64_t>& share = shares_[static_cast<size_t>(owner)].state;
  int64_t num_run = 0;
  uint64_t state = share.load(std::memory_order_acquire);
  while (NextTask(state) < EndTask(state)) {
    if (!share.compare_exchange_weak(state, state + (is_own ? kWithoutFirst : kWithoutLast),
                                     std::memory_order_acq_rel, std::memory_order_acquire)) {
      continue;
    }
    const uint64_t task = is_own ? NextTask(state) : EndTask(state) - 1;
    function_(body_, static_cast<int64_t>(task), thread);
    ++num_run;
    state = share.load(std::memory_order_acquire);
  }
  return num_run;
}

bool ThreadPool::RunTasks(int thread) {
  int64_t num_run = 0;
  for (int i = 0; i < num_threads(); ++i) num_run += RunShare(thread, (thread + i) % num_threads());
  // Told once per loop: until it is told, the loop cannot end and no other can begin.
  if (num_run > 0) num_done_.fetch_add(num_run, std::memory_order_release);
  return num_run > 0;
}

void ThreadPool::Work(int thread) {
  // Like the step thread's name: for whoever looks at what takes the time of a process.
  pthread_setname_np(pthread_self(), "enginery-worker");
  // Shares are looked at when all of a loop are there: one who looks meanwhile finds its own empty
  // and the first one's full, and has all rows in the wrong cache.
  uint32_t last_wake = 0;
  int spins = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    const uint32_t wake = wake_.load();
    if (wake != last_wake) {
      last_wake = wake;
      if (RunTasks(thread)) spins = 0;
    } else if (++spins < kSpinsBeforeParking) {
      Pause();
    } else {
      num_parked_.fetch_add(1);
      wake_.wait(wake);  // returns at once if a loop was started after `wake` was read
      spins = 0;
    }
  }
}

}  // namespace enginery
