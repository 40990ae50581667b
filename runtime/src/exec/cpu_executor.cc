// SPDX-License-Identifier: Apache-2.0
#include "exec/cpu_executor.h"

#include <new>

#include "base/error.h"
#include "base/str_cat.h"
#include "exec/executor.h"

namespace enginery {
namespace {

constexpr int kMaxThreads = 1024;

// What `ctx` of the table points to.
struct Instance {
  Executor executor;
  std::string last_error;
};

// Runs a call of the table; exceptions end here, for the table is a C interface.
template <class Call>
enginery_status Guard(void* ctx, const Call& call) {
  Instance& instance = *static_cast<Instance*>(ctx);
  try {
    instance.last_error.clear();
    call(instance.executor);
    return ENGINERY_OK;
  } catch (const Error& error) {
    instance.last_error = error.what();
    return error.status();
  } catch (const std::bad_alloc&) {
    instance.last_error = "out of memory";
    return ENGINERY_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    instance.last_error = error.what();
    return ENGINERY_INTERNAL;
  }
}

// A struct as its caller knows it must have all that this version reads or fills.
template <class Struct>
void CheckStruct(const Struct* value, std::string_view name) {
  if (value == nullptr || value->abi_size < sizeof(Struct)) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                StrCat(name, " is NULL or its abi_size is below ", uint64_t{sizeof(Struct)}));
  }
}

enginery_status Init(void* ctx, const enginery_limits* limits, uint64_t kv_cache_bytes,
                     enginery_executor_info* info) {
  return Guard(ctx, [&](Executor& executor) {
    CheckStruct(limits, "limits");
    CheckStruct(info, "info");
    executor.Init(*limits, kv_cache_bytes, info);
  });
}

enginery_status Execute(void* ctx, const enginery_batch* batch) {
  return Guard(ctx, [&](Executor& executor) { executor.Execute(batch); });
}

enginery_status Collect(void* ctx, enginery_step_output* output) {
  return Guard(ctx, [&](Executor& executor) {
    CheckStruct(output, "output");
    executor.Collect(output);
  });
}

const char* LastError(void* ctx) { return static_cast<Instance*>(ctx)->last_error.c_str(); }

void Destroy(void* ctx) { delete static_cast<Instance*>(ctx); }

// The engine's target is not cpu: what it is for, and what would run it.
std::string DescribeWrongTarget(const Engine& engine) {
  std::string skus;
  for (const std::string& sku : engine.skus()) skus += StrCat(skus.empty() ? "" : ", ", sku);
  std::string text = StrCat(
      "the engine is for target \"", engine.target(), "\", SKU ", skus,
      "; the cpu executor runs engines for target \"cpu\": build the checkpoint for SKU cpu");
  if (engine.target() == "tensorrt") {
    text +=
        ", or run this engine where its GPU is (enginery serve, enginery bench or Python's LLM "
        "with the extra tensorrt installed), or on this machine with --emulate";
  }
  return text;
}

}  // namespace

const Kernels& ChooseKernels(const std::string& isa) {
  const Kernels* kernels = FindKernels(isa.c_str());
  if (kernels != nullptr) return *kernels;
  std::string accepted = "auto";
  for (const char* name : {"amx", "avx512", "avx2", "portable"}) {
    if (FindKernels(name) != nullptr) accepted += StrCat(", ", std::string_view(name));
  }
  throw Error(ENGINERY_INVALID_ARGUMENT,
              StrCat("isa is \"", isa, "\"; accepted on this machine: ", accepted));
}

int ChooseNumThreads(int num_threads) {
  if (num_threads < 0 || num_threads > kMaxThreads) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                StrCat("num_threads is ", num_threads, "; accepted: 0..", kMaxThreads));
  }
  return num_threads > 0 ? num_threads : ThreadPool::NumUsableCpus();
}

enginery_executor MakeCpuExecutor(std::shared_ptr<const Engine> engine,
                                  const CpuExecutorOptions& options, std::string* isa_name,
                                  std::shared_ptr<Profiler>* profiler) {
  if (engine->target() != "cpu") {
    throw Error(ENGINERY_WRONG_TARGET, DescribeWrongTarget(*engine));
  }
  const int num_threads = ChooseNumThreads(options.num_threads);
  const Kernels& kernels = ChooseKernels(options.isa);
  std::vector<const Program*> programs;
  for (int64_t r = 0; r < engine->tp_size(); ++r) programs.push_back(&engine->program(r));

  auto* instance =
      new Instance{Executor(programs, engine, kernels, num_threads, options.pin_threads), {}};
  if (isa_name != nullptr) *isa_name = kernels.name;
  if (profiler != nullptr) *profiler = instance->executor.profiler();
  enginery_executor table{};
  table.abi_size = sizeof table;
  table.ctx = instance;
  table.init = Init;
  table.execute = Execute;
  table.collect = Collect;
  table.last_error = LastError;
  table.destroy = Destroy;
  return table;
}

}  // namespace enginery
