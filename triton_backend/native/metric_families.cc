// SPDX-License-Identifier: Apache-2.0
#include "metric_families.h"

#include <charconv>
#include <cmath>
#include <sstream>

#include "json.h"

namespace enginery::triton {
namespace {

constexpr double kNanoseconds = 1e9;

double Number(uint64_t value) { return static_cast<double>(value); }

uint64_t NumUsedBlocks(const enginery_stats& stats) {
  return stats.num_blocks - stats.num_free_blocks;
}

constexpr FamilyValue kBlocks[] = {
    {"max", [](const Reading& r) { return Number(r.stats.num_blocks); }},
    {"free", [](const Reading& r) { return Number(r.stats.num_free_blocks); }},
    {"used", [](const Reading& r) { return Number(NumUsedBlocks(r.stats)); }},
    {"cached", [](const Reading& r) { return Number(r.stats.num_cached_blocks); }},
    {"reused",
     [](const Reading& r) {
       return Number(r.stats.num_reused_tokens / r.limits.tokens_per_block);
     }},
    {"tokens_per", [](const Reading& r) { return Number(r.limits.tokens_per_block); }},
    {"fraction",
     [](const Reading& r) { return Number(NumUsedBlocks(r.stats)) / Number(r.stats.num_blocks); }},
};
constexpr FamilyValue kRequests[] = {
    {"waiting", [](const Reading& r) { return Number(r.stats.num_waiting); }},
    {"scheduled", [](const Reading& r) { return Number(r.stats.num_running); }},
    {"active",
     [](const Reading& r) { return Number(r.stats.num_requests - r.stats.num_finished); }},
    {"max", [](const Reading& r) { return Number(r.limits.max_batch_size); }},
    {"context",
     [](const Reading& r) { return Number(r.step.num_sequences - r.step.num_decode_tokens); }},
};
constexpr FamilyValue kMemory[] = {
    {"cpu",
     [](const Reading& r) {
       return Number((r.stats.num_blocks * r.stats.block_bytes) + r.stats.workspace_bytes);
     }},
    {"gpu", [](const Reading&) { return 0.0; }},  // the native backend runs engines of target cpu
};
constexpr FamilyValue kBatcher[] = {
    {"total_context_tokens", [](const Reading& r) { return Number(r.step.num_prefill_tokens); }},
    {"generation_requests", [](const Reading& r) { return Number(r.step.num_decode_tokens); }},
    {"paused_requests", [](const Reading& r) { return Number(r.step.num_preempted); }},
};
constexpr FamilyValue kGeneral[] = {
    {"iteration_counter", [](const Reading& r) { return Number(r.stats.num_iterations); }},
    {"timestamp", [](const Reading& r) { return std::floor(r.read_at); }},
};
constexpr Family kGauges[] = {
    {"nv_trt_llm_kv_cache_block_metrics",
     "KV cache blocks; free ones include cached ones, which can be had at once; reused: since the "
     "start",
     "kv_cache_block_type", kBlocks},
    {"nv_trt_llm_request_metrics", "Requests and sequences of the runtime", "request_type",
     kRequests},
    {"nv_trt_llm_runtime_memory_metrics", "Bytes of the KV cache and the workspace", "memory_type",
     kMemory},
    {"nv_trt_llm_inflight_batcher_metrics", "The last step; 0 when nothing is running",
     "inflight_batcher_specific_metric", kBatcher},
    {"nv_trt_llm_general_metrics", "Steps so far, and Unix time in whole seconds", "general_type",
     kGeneral},
};

constexpr FamilyValue kIterations[] = {
    {"", [](const Reading& r) { return Number(r.stats.num_iterations); }}};
constexpr FamilyValue kSubmitted[] = {
    {"", [](const Reading& r) { return Number(r.stats.num_requests); }}};
constexpr FamilyValue kFinished[] = {
    {"", [](const Reading& r) { return Number(r.stats.num_finished); }}};
constexpr FamilyValue kPreemptions[] = {
    {"", [](const Reading& r) { return Number(r.stats.num_preemptions); }}};
constexpr FamilyValue kPromptTokens[] = {
    {"", [](const Reading& r) { return Number(r.stats.num_prompt_tokens); }}};
constexpr FamilyValue kReusedTokens[] = {
    {"", [](const Reading& r) { return Number(r.stats.num_reused_tokens); }}};
constexpr FamilyValue kOutputTokens[] = {
    {"", [](const Reading& r) { return Number(r.stats.num_output_tokens); }}};
constexpr FamilyValue kScheduledTokens[] = {
    {"", [](const Reading& r) { return Number(r.stats.num_scheduled_tokens); }}};
constexpr FamilyValue kStepSeconds[] = {
    {"", [](const Reading& r) { return Number(r.stats.step_ns) / kNanoseconds; }}};
constexpr FamilyValue kSchedulerSeconds[] = {
    {"", [](const Reading& r) { return Number(r.stats.scheduler_ns) / kNanoseconds; }}};

template <size_t kIndex>
constexpr FamilyValue FinishReason() {
  return {kFinishReasons[kIndex].data(),
          [](const Reading& r) { return Number(r.observed.finish_reasons[kIndex]); }};
}
template <size_t kIndex>
constexpr FamilyValue ErrorCause() {
  return {kErrorCauses[kIndex].data(),
          [](const Reading& r) { return Number(r.observed.errors[kIndex]); }};
}
constexpr FamilyValue kReasons[] = {FinishReason<0>(), FinishReason<1>(), FinishReason<2>(),
                                    FinishReason<3>(), FinishReason<4>()};
static_assert(std::size(kReasons) == kFinishReasons.size());
constexpr FamilyValue kCauses[] = {ErrorCause<0>(), ErrorCause<1>(), ErrorCause<2>(),
                                   ErrorCause<3>(), ErrorCause<4>(), ErrorCause<5>(),
                                   ErrorCause<6>(), ErrorCause<7>(), ErrorCause<8>()};
static_assert(std::size(kCauses) == kErrorCauses.size());

constexpr Family kCounters[] = {
    {"enginery_iterations_total", "Steps", "", kIterations},
    {"enginery_requests_total", "Requests submitted", "", kSubmitted},
    {"enginery_requests_finished_total", "Requests ended, for whatever reason", "", kFinished},
    {"enginery_num_preemptions_total", "Preemptions", "", kPreemptions},
    {"enginery_prompt_tokens_total", "Prompt tokens admitted", "", kPromptTokens},
    {"enginery_prefix_cache_hits_total", "Prompt tokens taken from the prefix cache", "",
     kReusedTokens},
    {"enginery_generation_tokens_total", "Tokens generated", "", kOutputTokens},
    {"enginery_scheduled_tokens_total", "Tokens of all steps, of prompts and generated", "",
     kScheduledTokens},
    {"enginery_step_seconds_total", "Time spent in steps", "", kStepSeconds},
    {"enginery_scheduler_seconds_total", "Time spent in steps, but not in the executor", "",
     kSchedulerSeconds},
    {"enginery_request_finish_reasons_total",
     "Requests that the runtime took and that ended, by what ended their last sequence",
     "finish_reason", kReasons},
    {"enginery_request_errors_total", "Requests refused or ended by an error", "cause", kCauses},
};

constexpr const char* kFirstTokenSeconds =
    "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 2560";
constexpr const char* kTokenSeconds =
    "0.001 0.0025 0.005 0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 "
    "80";
constexpr const char* kRequestSeconds =
    "0.01 0.05 0.1 0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680";
// Those of enginery_stats.
constexpr const char* kStepBounds =
    "0.0001 0.0002 0.0004 0.0008 0.0016 0.0032 0.0064 0.0128 0.0256 0.0512 0.1024 0.2048 0.4096 "
    "0.8192 1.6384 3.2768 6.5536 13.1072 26.2144 52.4288 104.8576 209.7152 419.4304 838.8608";
constexpr const char* kTokens =
    "1 2 5 10 20 50 100 200 500 1000 2000 5000 10000 20000 50000 100000 200000 500000 1000000";
constexpr const char* kTrtLlmTokens = "10 50 100 500 1000";
constexpr const char* kPromptTokensHelp =
    "Prompt tokens of requests that stopped or reached max_tokens";
constexpr const char* kGenerationTokensHelp =
    "Tokens of sequences that stopped or reached max_tokens";

constexpr HistogramFamily kHistograms[] = {
    {"enginery_time_to_first_token_seconds", "From the arrival of a request to its first token",
     kFirstTokenSeconds, "", ""},
    {"enginery_time_per_output_token_seconds",
     "Mean time per token after the first, of sequences that stopped or reached max_tokens",
     kTokenSeconds, "", ""},
    {"enginery_inter_token_latency_seconds", "Between tokens of a sequence that streams",
     kTokenSeconds, "", ""},
    {"enginery_e2e_request_latency_seconds",
     "From the arrival of a request to its last token, of those that stopped or reached "
     "max_tokens",
     kRequestSeconds, "", ""},
    {"enginery_request_queue_time_seconds", "From the arrival of a request to its first step",
     kRequestSeconds, "", ""},
    {"enginery_step_time_seconds", "Time of a step, with the scheduler's share", kStepBounds, "",
     ""},
    {"enginery_request_prompt_tokens", kPromptTokensHelp, kTokens, "", ""},
    {"enginery_request_generation_tokens", kGenerationTokensHelp, kTokens, "", ""},
    {"nv_llm_input_token_len", kPromptTokensHelp, kTrtLlmTokens, "response_metric_type",
     "total_input_tokens"},
    {"nv_llm_output_token_len", kGenerationTokensHelp, kTrtLlmTokens, "response_metric_type",
     "total_output_tokens"},
};
static_assert(std::size(kHistograms) == kNumHistograms);

}  // namespace

Step ReadLastStep(std::string_view json) {
  const Json iterations = ParseJson(json);
  if (iterations.items.empty()) return {};
  const auto number = [&](std::string_view name) -> uint64_t {
    const Json* const member = iterations.items.back().Find(name);
    uint64_t value = 0;
    if (member != nullptr && member->kind == Json::Kind::kNumber) {
      std::from_chars(member->text.data(), member->text.data() + member->text.size(), value);
    }
    return value;
  };
  return {number("num_sequences"), number("num_prefill_tokens"), number("num_decode_tokens"),
          number("num_preempted")};
}

std::span<const Family> Gauges() { return kGauges; }
std::span<const Family> Counters() { return kCounters; }
std::span<const HistogramFamily> Histograms() { return kHistograms; }

std::vector<std::string> BucketNames(const HistogramFamily& family) {
  std::istringstream text(family.buckets);
  std::vector<std::string> names;
  for (std::string name; text >> name;) names.push_back(name);
  return names;
}

}  // namespace enginery::triton
