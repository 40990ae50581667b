// SPDX-License-Identifier: Apache-2.0
//
// Runs steps of the model on this machine's CPU, for all ranks of an engine.
#ifndef ENGINERY_SRC_EXEC_EXECUTOR_H_
#define ENGINERY_SRC_EXEC_EXECUTOR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/program.h"
#include "enginery/enginery.h"
#include "exec/greedy_sampler.h"
#include "exec/kv_cache.h"
#include "exec/plan.h"
#include "exec/profiler.h"
#include "exec/thread_pool.h"
#include "exec/workspace.h"
#include "kernels/kernels.h"

namespace enginery {

class Executor {
 public:
  // programs[r] is rank r's. `owner` keeps them, and the tensors they point to, alive. Throws Error
  // as MakeCpuExecutor.
  Executor(const std::vector<const Program*>& programs, std::shared_ptr<const void> owner,
           const Kernels& kernels, int num_threads, bool pin_threads = false);

  // The calls of enginery_executor, with exceptions for errors.
  void Init(const enginery_limits& limits, uint64_t kv_cache_bytes, enginery_executor_info* info);
  void Execute(const enginery_batch* batch);
  void Collect(enginery_step_output* output) const;

  const std::shared_ptr<Profiler>& profiler() const { return profiler_; }

 private:
  struct Rank {
    Plan plan;
    Workspace workspace;
    KvView kv;
    QueryTiles query_tiles;  // of the current step
  };

  void CheckCollectives() const;
  void PlanQueries(const BatchView& batch, Rank& rank) const;
  void RunRanks(const BatchView& batch, Profiler::Step* profile);
  void Sample(const BatchView& batch, Profiler::Step* profile);

  const std::shared_ptr<const void> owner_;
  const Kernels& kernels_;
  const std::shared_ptr<Profiler> profiler_ = std::make_shared<Profiler>();
  ThreadPool pool_;
  std::vector<Rank> ranks_;
  std::vector<StepContext> contexts_;        // of the current step
  std::vector<CollectiveStep> collectives_;  // of the ranks, at the current collective
  BatchLimits limits_{};
  KvCache kv_cache_;
  Reservation scratch_;
  int64_t scratch_bytes_ = 0;  // per thread
  GreedySampler sampler_;
  bool is_initialized_ = false;
  bool has_result_ = false;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_EXECUTOR_H_
