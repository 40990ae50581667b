// SPDX-License-Identifier: Apache-2.0
//
// The executor's threads. They live as long as the executor, spin briefly between the loops of a
// step (a step has hundreds, microseconds apart) and park between steps.
#ifndef ENGINERY_SRC_EXEC_THREAD_POOL_H_
#define ENGINERY_SRC_EXEC_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace enginery {

class ThreadPool {
 public:
  // Most tasks that one ParallelFor takes.
  static constexpr int64_t kMaxTasks = INT32_MAX;

  // num_threads >= 1 counts the caller of ParallelFor, who works too. `pin_threads` holds each on a
  // CPU of its own out of the affinity mask of the thread that makes the pool: the workers from the
  // start, the caller by PinCaller. Throws Error: ENGINERY_OUT_OF_MEMORY when the system refuses
  // threads, ENGINERY_INVALID_ARGUMENT when there are fewer CPUs than threads to be pinned.
  explicit ThreadPool(int num_threads, bool pin_threads = false);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(task, thread) for every task in [0, num_tasks), each once, on threads in [0,
  // num_threads()), and returns when all are done. Each thread has an equal share of consecutive
  // tasks and takes them in order, so that loops over the same rows find them in the cache of the
  // thread that wrote them; who is done with its own takes over what others have left. So which
  // thread runs a task is not fixed: results must not depend on it. body must not throw. Calls come
  // from one thread at a time and do not nest.
  template <class Body>
  void ParallelFor(int64_t num_tasks, const Body& body) {
    if (num_tasks <= 1 || workers_.empty()) {
      for (int64_t task = 0; task < num_tasks; ++task) body(task, 0);
      return;
    }
    Run(
        num_tasks,
        [](const void* b, int64_t task, int thread) noexcept {
          (*static_cast<const Body*>(b))(task, thread);
        },
        &body);
  }

  // Holds the calling thread on the CPU that is kept for thread 0; does nothing without
  // `pin_threads` and when it was done before. For the thread that will call ParallelFor.
  void PinCaller();

  // As many threads as this process may run on: its affinity mask, less when a cgroup limits its
  // share.
  static int NumUsableCpus();

 private:
  using TaskFunction = void (*)(const void* body, int64_t task, int thread);

  void Run(int64_t num_tasks, TaskFunction function, const void* body);
  void Work(int thread);
  void PinWorkers();
  void Stop();
  // Runs tasks of the current loop while there are any; false when there was none.
  bool RunTasks(int thread);
  // Runs what is left of an owner's share; how many tasks those were.
  int64_t RunShare(int thread, int owner);

  // A thread's share of the tasks: its end (high half) and the next task (low half) in one word, so
  // that a thread takes a task of the loop that is current at that very moment: one that wakes late
  // finds nothing to take, and nobody waits for it.
  struct alignas(64) Share {
    std::atomic<uint64_t> state{0};
  };
  std::vector<Share> shares_;  // [num_threads]
  alignas(64) std::atomic<int64_t> num_done_{0};
  TaskFunction function_ = nullptr;  // written before shares are, read only after a task was taken
  const void* body_ = nullptr;
  std::atomic<uint32_t> wake_{0};  // loops that were begun: what workers wait for
  // Workers that parked since the last wake-up call: who wakes them takes the count away, so that
  // one call serves them however long they take to come.
  std::atomic<int> num_parked_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
  std::vector<int> cpus_;  // [num_threads]; empty: not pinned, or pinned already
};

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_THREAD_POOL_H_
