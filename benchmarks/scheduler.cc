// SPDX-License-Identifier: Apache-2.0
//
// What a step costs outside the executor: the serving loop over an executor that does nothing, the
// sampler on rows of a large vocabulary, greedy tokens as the sampler and as the cpu executor finds
// them, and the thread pool's empty loops.
//
//     make test-cpp
//     LIBRARY=build/tests/libenginery_static.a
//     g++ -std=c++20 -O2 -Iruntime/include -Iruntime/src benchmarks/scheduler.cc $LIBRARY -pthread
//         -o build/scheduler
//     build/scheduler [num_threads]
//
// `loop` is the time from the executor's return to its next call, with everything that happens in
// between: sampling bookkeeping, detokenisation, events, statistics, scheduling, batch building.
// `inbox and events` is the part of it outside the step itself. A thread takes the events
// meanwhile, as a client does.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/runtime.h"
#include "enginery/enginery.h"
#include "exec/greedy_sampler.h"
#include "exec/thread_pool.h"
#include "sample/logit_scan.h"
#include "sample/sampler.h"

namespace {

using enginery::MonotonicNs;

constexpr int64_t kVocabSize = 151936;
constexpr int64_t kTokensPerBlock = 32;
constexpr int64_t kPromptTokens = 1000;
constexpr int64_t kNewTokens = 600;

struct Percentiles {
  double median, p99;
};

Percentiles Of(std::vector<double> values) {
  std::ranges::sort(values);
  return {values[values.size() / 2], values[values.size() * 99 / 100]};
}

// Draws every token as soon as it is asked; notes when it was called and when it returned.
class NullExecutor {
 public:
  enginery_executor table() {
    enginery_executor table = {};
    table.abi_size = sizeof table;
    table.ctx = this;
    table.init = [](void*, const enginery_limits* limits, uint64_t, enginery_executor_info* info) {
      info->vocab_size = kVocabSize;
      info->num_blocks = limits->max_batch_size * ((limits->max_seq_len - 1) / kTokensPerBlock + 1);
      return enginery_status{ENGINERY_OK};
    };
    table.execute = [](void* ctx, const enginery_batch* batch) {
      return static_cast<NullExecutor*>(ctx)->Execute(*batch);
    };
    table.collect = [](void* ctx, enginery_step_output* output) {
      return static_cast<NullExecutor*>(ctx)->Collect(output);
    };
    return table;
  }

  // Of steps with num_sequences tokens, a decode of each: microseconds from the last return.
  std::vector<double> gaps;
  int64_t num_sequences = 0;

 private:
  enginery_status Execute(const enginery_batch& batch) {
    const uint64_t now = MonotonicNs();
    const bool is_full = batch.num_tokens == num_sequences && batch.num_sequences == num_sequences;
    if (is_full && was_full_) gaps.push_back(static_cast<double>(now - returned_ns_) * 1e-3);
    was_full_ = is_full;
    tokens_.resize(batch.num_samples);
    for (int32_t& token : tokens_) token = next_token_ = (next_token_ + 7919) % kVocabSize;
    return ENGINERY_OK;
  }
  enginery_status Collect(enginery_step_output* output) {
    output->logits = nullptr;
    output->token_ids = tokens_.data();
    returned_ns_ = MonotonicNs();
    return ENGINERY_OK;
  }

  std::vector<int32_t> tokens_;
  int32_t next_token_ = 0;
  uint64_t returned_ns_ = 0;
  bool was_full_ = false;
};

// Four letters and a space for every token.
class Words {
 public:
  Words() {
    offsets_.push_back(0);
    for (int64_t i = 0; i < kVocabSize; ++i) {
      data_ += "word ";
      offsets_.push_back(static_cast<uint32_t>(data_.size()));
    }
    flags_.assign(static_cast<size_t>(kVocabSize), 0);
  }
  enginery::TokenBytes token_bytes() const {
    return {offsets_.data(), flags_.data(), data_.data(), static_cast<uint32_t>(kVocabSize)};
  }

 private:
  std::vector<uint32_t> offsets_;
  std::vector<uint8_t> flags_;
  std::string data_;
};

void MeasureLoop(const Words& words, int64_t num_sequences) {
  enginery::ModelFacts model;
  model.vocab_size = kVocabSize;
  model.max_batch_size = num_sequences;
  model.max_num_tokens = 8192;
  model.max_seq_len = kPromptTokens + kNewTokens;
  model.max_input_len = kPromptTokens;
  model.tokens_per_block = kTokensPerBlock;
  model.kv_bytes_per_token = 1;
  model.token_bytes = words.token_bytes();
  enginery_runtime_options options = {};
  options.abi_size = sizeof options;
  options.kv_cache_bytes = 1;
  options.enable_chunked_context = 1;
  options.enable_block_reuse = 1;
  options.iteration_stats_capacity = 1000;
  NullExecutor executor;
  executor.num_sequences = num_sequences;
  uint64_t num_steps = 0;
  uint64_t step_ns = 0;
  {
    enginery::Runtime runtime(enginery::ReadRuntimeOptions(options, model), executor.table(),
                              nullptr);
    std::mt19937 random(1);
    std::vector<int32_t> prompt(static_cast<size_t>(kPromptTokens));
    for (int64_t s = 0; s < num_sequences; ++s) {
      for (int32_t& token : prompt) token = static_cast<int32_t>(random() % kVocabSize);
      enginery_request request;
      enginery_request_init(&request, sizeof request);
      request.prompt_token_ids = prompt.data();
      request.num_prompt_tokens = prompt.size();
      request.max_tokens = kNewTokens;
      request.temperature = 0.0f;
      request.ignore_eos = 1;
      runtime.Submit(request);
    }
    enginery::Events events;
    for (int64_t num_ended = 0; num_ended < num_sequences;) {
      runtime.Poll(std::nullopt, &events);
      for (const auto& event : events) num_ended += event->view.is_last;
    }
    num_steps = runtime.Stats().num_iterations;
    step_ns = runtime.Stats().scheduler_ns;
  }
  if (executor.gaps.empty()) {
    std::printf("%4ld sequences: never all at once\n", static_cast<long>(num_sequences));
    return;
  }
  const Percentiles loop = Of(executor.gaps);
  std::printf(
      "%4ld sequences: loop median %7.1f us, p99 %7.1f us; mean of the step's own %7.1f us\n",
      static_cast<long>(num_sequences), loop.median, loop.p99,
      static_cast<double>(step_ns) / static_cast<double>(num_steps) * 1e-3);
}

template <class Body>
double MedianUs(int num_runs, const Body& body) {
  std::vector<double> runs;
  for (int i = 0; i < num_runs; ++i) {
    const uint64_t begin = MonotonicNs();
    body(i);
    runs.push_back(static_cast<double>(MonotonicNs() - begin) * 1e-3);
  }
  return Of(runs).median;
}

void MeasureSampler() {
  constexpr int kRows = 64;  // more than a core's caches hold
  const auto width = static_cast<size_t>(kVocabSize);
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0.0f, 2.5f);
  std::vector<float> logits(width * kRows);
  for (float& logit : logits) logit = normal(random);
  // Few tokens have most of the weight, as in a model.
  for (size_t i = 0; i < logits.size(); i += width / 50) logits[i] += 15.0f;
  const auto row = [&](int i) {
    return std::span<const float>(&logits[width * (i % kRows)], width);
  };
  enginery::Sampler sampler(kVocabSize);
  const std::vector<int32_t> tokens = {1, 2, 3};
  enginery::TokenCounts counts;
  volatile int32_t drawn = 0;
  const auto sample = [&](const char* name, const enginery::SamplingParams& params) {
    const double us = MedianUs(200, [&](int i) {
      enginery::SampleContext context;
      context.token_ids = tokens;
      context.num_prompt_tokens = 3;
      context.sequence_index = static_cast<uint32_t>(i);
      context.counts = &counts;
      drawn = sampler.Sample(params, context, row(i)).token_id;
    });
    std::printf("%-28s %7.1f us a row, %5.1f GB/s\n", name, us,
                static_cast<double>(width) * 4e-3 / us);
  };
  const double read_us = MedianUs(200, [&](int i) {
    using Words4 = uint32_t __attribute__((vector_size(16)));
    Words4 seen[4] = {};
    const float* from = row(i).data();
    for (size_t j = 0; j + 16 <= width; j += 16) {
      for (size_t k = 0; k < 4; ++k) {
        Words4 words;
        __builtin_memcpy(&words, from + j + 4 * k, sizeof words);
        seen[k] |= words;
      }
    }
    drawn = static_cast<int32_t>(((seen[0] | seen[1]) | (seen[2] | seen[3]))[0]);
  });
  std::printf("%-28s %7.1f us a row, %5.1f GB/s\n", "reading alone", read_us,
              static_cast<double>(width) * 4e-3 / read_us);
  enginery::SamplingParams params;
  params.temperature = 0.0f;
  sample("greedy", params);
  params.temperature = 0.8f;
  sample("temperature 0.8", params);
  params.top_p = 0.95f;
  sample("temperature 0.8, top_p 0.95", params);
  params.top_p = 1.0f;
  params.top_k = 50;
  sample("temperature 0.8, top_k 50", params);
}

// The rows of a decode step, each just written by the threads as lm_head does: by columns.
void MeasureGreedy(int num_threads) {
  constexpr int64_t kMaxRows = 16;
  std::vector<float> logits(static_cast<size_t>(kMaxRows * kVocabSize));
  enginery::ThreadPool pool(num_threads);
  const auto write = [&](int64_t num_rows, float scale) {
    const int64_t num_tasks = 4 * num_threads;
    pool.ParallelFor(num_tasks, [&](int64_t task, int) {
      for (int64_t row = 0; row < num_rows; ++row) {
        const int64_t end = kVocabSize * (task + 1) / num_tasks;
        for (int64_t i = kVocabSize * task / num_tasks; i < end; ++i) {
          logits[static_cast<size_t>(row * kVocabSize + i)] =
              scale * static_cast<float>((i * 7919 + row) & 0xFFFF);
        }
      }
    });
  };
  enginery::GreedySampler greedy;
  const enginery::Matrix matrix = {reinterpret_cast<std::byte*>(logits.data()),
                                   kVocabSize * int64_t{sizeof(float)}, nullptr};
  enginery::Sampler sampler(kVocabSize);
  enginery::SamplingParams params;
  params.temperature = 0.0f;
  volatile int32_t drawn = 0;
  for (const int64_t num_rows : {1, 16}) {
    std::vector<enginery_sample_record> records(static_cast<size_t>(num_rows));
    for (int64_t row = 0; row < num_rows; ++row) {
      records[static_cast<size_t>(row)].logit_row = static_cast<int32_t>(row);
      records[static_cast<size_t>(row)].flags = ENGINERY_SAMPLE_GREEDY;
    }
    const auto measure = [&](const auto& body) {
      std::vector<double> runs;
      for (int i = 0; i < 200; ++i) {
        write(num_rows, static_cast<float>(i + 1));
        const uint64_t begin = MonotonicNs();
        body();
        runs.push_back(static_cast<double>(MonotonicNs() - begin) * 1e-3);
      }
      return Of(runs).median;
    };
    const double sampler_us = measure([&] {
      for (int64_t row = 0; row < num_rows; ++row) {
        const float* from = &logits[static_cast<size_t>(row * kVocabSize)];
        drawn = sampler.Sample(params, {}, {from, static_cast<size_t>(kVocabSize)}).token_id;
      }
    });
    const double greedy_us = measure([&] {
      greedy.Run(records, matrix, kVocabSize, pool);
      drawn = greedy.token_ids().back();
    });
    std::printf("greedy, %2ld rows: sampler %7.1f us, executor with %d threads %7.1f us\n",
                static_cast<long>(num_rows), sampler_us, num_threads, greedy_us);
  }
}

// A decode step of 24 layers has about so many loops.
constexpr int kLoops = 170;

void MeasureThreadPool(int num_threads) {
  enginery::ThreadPool pool(num_threads);
  const int64_t num_tasks = 4 * num_threads;
  const double empty_us = MedianUs(300, [&](int) {
    for (int i = 0; i < kLoops; ++i) pool.ParallelFor(num_tasks, [](int64_t, int) {});
  });
  // Tasks of about 5 us each: what the loop takes beyond them is the pool's.
  constexpr uint64_t kTaskNs = 5000;
  const double busy_us = MedianUs(300, [&](int) {
    for (int i = 0; i < kLoops; ++i) {
      pool.ParallelFor(num_tasks, [](int64_t, int) {
        for (const uint64_t end = MonotonicNs() + kTaskNs; MonotonicNs() < end;) continue;
      });
    }
  });
  const double work_us = kLoops * static_cast<double>(num_tasks / num_threads * kTaskNs) * 1e-3;
  std::printf(
      "%d threads, %d loops of %ld tasks: empty %.0f us; of 5 us tasks %.0f us, of which "
      "%.0f us beyond them\n",
      num_threads, kLoops, static_cast<long>(num_tasks), empty_us, busy_us, busy_us - work_us);
}

}  // namespace

int main(int argc, char** argv) {
  const Words words;
  for (const int64_t num_sequences : {1, 16, 64, 256}) MeasureLoop(words, num_sequences);
  MeasureSampler();
  const int num_threads = argc > 1 ? std::atoi(argv[1]) : enginery::ThreadPool::NumUsableCpus();
  MeasureGreedy(num_threads);
  MeasureThreadPool(num_threads);
  return 0;
}
