// SPDX-License-Identifier: Apache-2.0
//
// Where the time of a step goes, per kind of op. Off unless asked for; the executor then reads the
// clock around each op.
#ifndef ENGINERY_SRC_EXEC_PROFILER_H_
#define ENGINERY_SRC_EXEC_PROFILER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "exec/op_work.h"

namespace enginery {

// All calls of one kind of op in one step.
struct OpProfile {
  std::string op, role;
  std::string unit;
  uint64_t num_calls = 0;
  uint64_t duration_ns = 0;
  uint64_t bytes = 0;
  uint64_t operations = 0;
};

struct StepProfile {
  uint64_t step_id = 0;
  std::vector<OpProfile> ops;  // in the order in which they first ran
};

// One thread runs steps; the rest may be called from any.
class Profiler {
 public:
  // Steps that are kept; older ones are forgotten.
  static constexpr size_t kMaxSteps = 1024;

  using Clock = std::chrono::steady_clock;

  // A step in the making. Null where the profiler is off.
  class Step {
   public:
    // Runs `body` and adds what it took to the work that `work()` tells afterwards.
    template <class Body, class Work>
    void Time(const Body& body, const Work& work) {
      const Clock::time_point begin = Clock::now();
      body();
      const auto duration = std::chrono::nanoseconds(Clock::now() - begin);
      Add(work(), static_cast<uint64_t>(duration.count()));
    }

   private:
    friend class Profiler;
    void Add(const OpWork& work, uint64_t duration_ns);
    StepProfile profile_;
    uint64_t generation_ = 0;
  };

  // Turning it on forgets what was measured before, also when it was on. Takes effect with the next
  // step.
  void set_enabled(bool is_enabled);

  // Null when off. To be given back to EndStep by the thread that runs the step.
  Step* BeginStep(uint64_t step_id);
  void EndStep(Step* step);

  // The last steps, oldest first.
  std::vector<StepProfile> Steps() const;

 private:
  std::atomic<bool> is_enabled_{false};
  Step step_;

  mutable std::mutex mutex_;  // guards what follows
  uint64_t generation_ = 0;   // how often it was turned on or off
  std::deque<StepProfile> steps_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_PROFILER_H_
