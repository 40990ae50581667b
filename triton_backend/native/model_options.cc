// SPDX-License-Identifier: Apache-2.0
#include "model_options.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "base/error.h"
#include "base/str_cat.h"
#include "problems.h"

namespace enginery::triton {
namespace {

constexpr std::string_view kNames[] = {
    "engine_dir",
    "kv_cache_bytes",
    "max_batch_size",
    "max_num_tokens",
    "max_queue_size",
    "batch_scheduler_policy",
    "max_chunk_tokens",
    "enable_chunked_context",
    "enable_kv_cache_reuse",
    "num_threads",
    "pin_threads",
    "isa",
    "watchdog_timeout_ms",
    "watchdog_dir",
    "log_requests",
};
constexpr std::string_view kPythonNames[] = {
    "tokenizer_dir", "num_sender_threads", "executor", "sku", "kv_cache_free_gpu_mem_fraction",
};

std::string Names(std::span<const std::string_view> names) {
  std::string out;
  for (const std::string_view name : names) out += StrCat(out.empty() ? "" : ", ", name);
  return out;
}

std::string Lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
  return out;
}

[[noreturn]] void Refuse(std::string_view problem) {
  throw Error(ENGINERY_INVALID_ARGUMENT, std::string(problem));
}

template <class Integer>
void Set(Integer& field, const std::string& text) {
  constexpr int64_t kMax = std::numeric_limits<Integer>::max();
  int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (stop != end || error == std::errc::invalid_argument) Refuse("must be an integer");
  if (error != std::errc() || value < 0 || value > kMax) Refuse(StrCat("must be 0 .. ", kMax));
  field = static_cast<Integer>(value);
}

bool AsTruth(const std::string& text) {
  const std::string word = Lower(text);
  if (word != "true" && word != "1" && word != "false" && word != "0") {
    Refuse("must be true or false");
  }
  return word == "true" || word == "1";
}

void SetPolicy(int32_t& field, const std::string& text) {
  const std::string word = Lower(text);
  if (word == "guaranteed_no_evict") {
    field = ENGINERY_POLICY_GUARANTEED_NO_EVICT;
  } else if (word == "max_utilization") {
    field = ENGINERY_POLICY_MAX_UTILIZATION;
  } else if (word == "static_batch") {
    field = ENGINERY_POLICY_STATIC_BATCH;
  } else {
    Refuse("must be one of guaranteed_no_evict, max_utilization, static_batch");
  }
}

void SetOption(ModelOptions& options, std::string_view name, const std::string& text) {
  enginery_runtime_options& runtime = options.runtime;
  if (name == "engine_dir") {
    options.engine_dir = text;
  } else if (name == "kv_cache_bytes") {
    Set(runtime.kv_cache_bytes, text);
  } else if (name == "max_batch_size") {
    Set(runtime.max_batch_size, text);
  } else if (name == "max_num_tokens") {
    Set(runtime.max_num_tokens, text);
  } else if (name == "max_queue_size") {
    Set(runtime.max_queue_size, text);
  } else if (name == "batch_scheduler_policy") {
    SetPolicy(runtime.policy, text);
  } else if (name == "max_chunk_tokens") {
    Set(runtime.max_chunk_tokens, text);
  } else if (name == "enable_chunked_context") {
    runtime.enable_chunked_context = AsTruth(text);
  } else if (name == "enable_kv_cache_reuse") {
    runtime.enable_block_reuse = AsTruth(text);
  } else if (name == "num_threads") {
    Set(runtime.num_threads, text);
  } else if (name == "pin_threads") {
    runtime.pin_threads = AsTruth(text);
  } else if (name == "isa") {
    options.isa = text;
  } else if (name == "watchdog_timeout_ms") {
    Set(runtime.watchdog_timeout_ms, text);
  } else if (name == "watchdog_dir") {
    options.watchdog_dir = text;
  } else if (name == "log_requests") {
    options.log_requests = ReadLogFormat(text);
  } else if (std::ranges::find(kPythonNames, name) != std::end(kPythonNames)) {
    Refuse("only the Python backend reads it; leave it out, or serve with backend: \"python\"");
  } else {
    Refuse(StrCat("there is no such parameter; there are ", Names(kNames)));
  }
}

std::string Problem(std::string_view name, const std::string& text, const Error& error) {
  return StrCat(name, " = '", text, "': ", error.what());
}

}  // namespace

ModelOptions::ModelOptions() { enginery_runtime_options_init(&runtime, sizeof runtime); }

enginery_runtime_options ModelOptions::View() const {
  enginery_runtime_options view = runtime;
  view.isa = isa.empty() ? nullptr : isa.c_str();
  view.watchdog_dir = watchdog_dir.empty() ? nullptr : watchdog_dir.c_str();
  return view;
}

ModelOptions ReadModelOptions(const std::map<std::string, std::string>& parameters) {
  ModelOptions options;
  Problems problems("parameters");
  for (const auto& [name, text] : parameters) {
    try {
      SetOption(options, name, text);
    } catch (const Error& error) {
      problems.Add(Problem(name, text, error));
    }
  }
  if (options.engine_dir.empty()) {
    problems.Add("engine_dir: is missing; name the engine directory");
  }
  problems.ThrowIfAny();
  return options;
}

bool ReadFlag(std::string_view name, const std::string& text) {
  try {
    return AsTruth(text);
  } catch (const Error& error) {
    Refuse(Problem(name, text, error));
  }
}

std::span<const std::string_view> ModelParameterNames() { return kNames; }
std::span<const std::string_view> PythonParameterNames() { return kPythonNames; }

}  // namespace enginery::triton
