// SPDX-License-Identifier: Apache-2.0
//
// The built-in executor: runs cpu engines of any tp_size in this process (the ranks in turn,
// collectives in memory).
#ifndef ENGINERY_SRC_EXEC_CPU_EXECUTOR_H_
#define ENGINERY_SRC_EXEC_CPU_EXECUTOR_H_

#include <memory>
#include <string>

#include "engine/engine.h"
#include "enginery/enginery.h"
#include "exec/profiler.h"
#include "kernels/kernels.h"

namespace enginery {

struct CpuExecutorOptions {
  int num_threads = 0;       // 0: as many as this process may run on
  bool pin_threads = false;  // each on a CPU of its own, the one that executes too
  std::string isa = "auto";  // auto, amx, avx512, avx2, portable
};

// What the options mean on this machine. Throw Error(ENGINERY_INVALID_ARGUMENT).
const Kernels& ChooseKernels(const std::string& isa);
int ChooseNumThreads(int num_threads);

// Checks that every step can run here (op, version, operand dtypes, layouts, shapes) and prepares
// it; the engine is shared. Throws Error: ENGINERY_WRONG_TARGET, ENGINERY_UNSUPPORTED_OP,
// ENGINERY_INVALID_PROGRAM, ENGINERY_INVALID_ARGUMENT (isa this machine lacks). The returned
// table's destroy() frees it. *isa_name receives the variant chosen, *profiler what measures its
// steps when asked to; either may be null.
enginery_executor MakeCpuExecutor(std::shared_ptr<const Engine> engine,
                                  const CpuExecutorOptions& options, std::string* isa_name,
                                  std::shared_ptr<Profiler>* profiler = nullptr);

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_CPU_EXECUTOR_H_
