// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "api/abi_struct.h"
#include "api/runtime_handle.h"
#include "api/status.h"
#include "core/runtime_config.h"
#include "enginery/enginery.h"
#include "exec/cpu_executor.h"
#include "exec/machine_limits.h"
#include "exec/profiler.h"

using namespace enginery;  // NOLINT: this file defines functions of the global namespace

struct enginery_profile {
  std::vector<StepProfile> steps;  // what the records point to
  std::vector<enginery_profile_record> records;
};

namespace {

Profiler& ProfilerOf(enginery_runtime* runtime) {
  RequireArgument(runtime != nullptr, "runtime is NULL");
  if (runtime->profiler == nullptr) {
    throw Error(ENGINERY_NOT_SUPPORTED,
                "the runtime has an executor of its caller's, and only the built-in one is "
                "profiled; measure it with its own tools");
  }
  return *runtime->profiler;
}

}  // namespace

extern "C" {

enginery_status enginery_runtime_set_profiling(enginery_runtime* runtime, int32_t enable) {
  return Guard([&] {
    Profiler& profiler = ProfilerOf(runtime);
    RequireArgument(enable == 0 || enable == 1, "enable is neither 0 nor 1");
    profiler.set_enabled(enable == 1);
  });
}

enginery_status enginery_runtime_profile(enginery_runtime* runtime, enginery_profile** profile) {
  return Guard([&] {
    const Profiler& profiler = ProfilerOf(runtime);
    RequireArgument(profile != nullptr, "profile is NULL; pass where the handle goes");
    auto taken = std::make_unique<enginery_profile>();
    taken->steps = profiler.Steps();
    for (const StepProfile& step : taken->steps) {
      for (const OpProfile& op : step.ops) {
        taken->records.push_back({step.step_id, op.op.c_str(), op.role.c_str(), op.unit.c_str(),
                                  op.num_calls, op.duration_ns, op.bytes, op.operations});
      }
    }
    *profile = taken.release();
  });
}

uint64_t enginery_profile_count(const enginery_profile* profile) {
  return profile == nullptr ? 0 : profile->records.size();
}

const enginery_profile_record* enginery_profile_get(const enginery_profile* profile,
                                                    uint64_t index) {
  return index < enginery_profile_count(profile) ? &profile->records[index] : nullptr;
}

void enginery_profile_free(enginery_profile* profile) { delete profile; }

enginery_status enginery_measure_limits(const char* isa, int32_t num_threads,
                                        enginery_machine_limits* limits) {
  return Guard([&] {
    RequireArgument(limits != nullptr, "limits is NULL; pass a struct with abi_size set");
    CheckAbiSize(limits->abi_size, "enginery_machine_limits");
    const Kernels& kernels = ChooseKernels(isa == nullptr ? "auto" : isa);
    WriteAbiStruct(MeasureLimits(kernels, ChooseNumThreads(num_threads), AvailableMemoryBytes()),
                   limits, limits->abi_size, "enginery_machine_limits");
  });
}

}  // extern "C"
