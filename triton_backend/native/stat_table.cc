// SPDX-License-Identifier: Apache-2.0
#include "stat_table.h"

namespace enginery::triton {
namespace {

using Stats = enginery_stats;

constexpr StatCounter kCounters[] = {
    {"enginery_iterations_total", "Steps", [](const Stats& s) { return s.num_iterations; }},
    {"enginery_requests_total", "Requests submitted",
     [](const Stats& s) { return s.num_requests; }},
    {"enginery_requests_finished_total", "Requests ended, for whatever reason",
     [](const Stats& s) { return s.num_finished; }},
    {"enginery_num_preemptions_total", "Preemptions",
     [](const Stats& s) { return s.num_preemptions; }},
    {"enginery_prompt_tokens_total", "Prompt tokens admitted",
     [](const Stats& s) { return s.num_prompt_tokens; }},
    {"enginery_prefix_cache_hits_total", "Prompt tokens taken from the prefix cache",
     [](const Stats& s) { return s.num_reused_tokens; }},
    {"enginery_generation_tokens_total", "Tokens generated",
     [](const Stats& s) { return s.num_output_tokens; }},
};

constexpr StatGauge kBlocks[] = {
    {"max", [](const Stats& s) { return s.num_blocks; }},
    {"free", [](const Stats& s) { return s.num_free_blocks; }},
    {"used", [](const Stats& s) { return s.num_blocks - s.num_free_blocks; }},
    {"cached", [](const Stats& s) { return s.num_cached_blocks; }},
};
constexpr StatGauge kRequests[] = {
    {"waiting", [](const Stats& s) { return s.num_waiting; }},
    {"scheduled", [](const Stats& s) { return s.num_running; }},
    {"active", [](const Stats& s) { return s.num_requests - s.num_finished; }},
};
constexpr StatGaugeFamily kFamilies[] = {
    {"nv_trt_llm_kv_cache_block_metrics",
     "KV cache blocks; free ones include cached ones, which can be had at once",
     "kv_cache_block_type", kBlocks},
    {"nv_trt_llm_request_metrics", "Requests and sequences of the runtime", "request_type",
     kRequests},
};

}  // namespace

std::span<const StatCounter> StatCounters() { return kCounters; }
std::span<const StatGaugeFamily> StatGaugeFamilies() { return kFamilies; }

}  // namespace enginery::triton
