// SPDX-License-Identifier: Apache-2.0
//
// config.pbtxt as the native backend reads it: what differs from what it serves is listed.
#include <string>

#include "base/error.h"
#include "base/str_cat.h"
#include "check.h"
#include "native/json.h"
#include "native/model_config.h"
#include "native/tensors.h"
#include "native/trtllm/tensors.h"

namespace enginery::triton {
namespace {

std::string Tensors(std::span<const TensorSpec> specs) {
  std::string out;
  for (const TensorSpec& spec : specs) {
    out += StrCat(out.empty() ? "" : ",", "{\"name\":\"", spec.name, "\",\"data_type\":\"TYPE_",
                  DataTypeName(spec.type), "\",\"dims\":[", spec.dims, "]}");
  }
  return out;
}

std::string Config(const std::string& parameters, const std::string& more = "") {
  return StrCat("{\"name\":\"m\",\"max_batch_size\":0,\"input\":[", Tensors(Inputs()),
                "],\"output\":[", Tensors(Outputs()), "],\"parameters\":{", parameters, "}", more,
                "}");
}

std::string Parameter(const std::string& name, const std::string& value) {
  return StrCat("\"", name, "\":{\"string_value\":\"", value, "\"}");
}

const std::string kEngine = Parameter("engine_dir", "/e");

std::string Changed(std::string config, const std::string& from, const std::string& to) {
  const size_t at = config.find(from);
  if (at == std::string::npos) return "unchanged";
  return config.replace(at, from.size(), to);
}

TEST(defaults) {
  const ModelConfig config = ReadModelConfig(Config(kEngine));
  CHECK_EQ(config.options.engine_dir, "/e");
  CHECK(!config.is_decoupled);
  enginery_runtime_options defaults;
  enginery_runtime_options_init(&defaults, sizeof defaults);
  CHECK_EQ(config.options.View().enable_chunked_context, defaults.enable_chunked_context);
  CHECK(config.options.View().isa == nullptr);
}

TEST(every_parameter) {
  std::string all = kEngine;
  for (const auto& [name, value] : {std::pair{"kv_cache_bytes", "1099511627776"},
                                    {"max_batch_size", "7"},
                                    {"max_num_tokens", "99"},
                                    {"max_queue_size", "1000"},
                                    {"batch_scheduler_policy", "Max_Utilization"},
                                    {"max_chunk_tokens", "33"},
                                    {"enable_chunked_context", "false"},
                                    {"enable_kv_cache_reuse", "0"},
                                    {"num_threads", "3"},
                                    {"pin_threads", "true"},
                                    {"isa", "portable"},
                                    {"watchdog_timeout_ms", "60000"},
                                    {"watchdog_dir", "/var/lib/enginery"},
                                    {"log_requests", "json"}}) {
    all += "," + Parameter(name, value);
  }
  const ModelConfig config =
      ReadModelConfig(Config(all, R"(,"model_transaction_policy":{"decoupled":true})"));
  const enginery_runtime_options view = config.options.View();
  CHECK(config.is_decoupled);
  CHECK_EQ(view.kv_cache_bytes, int64_t{1} << 40);
  CHECK_EQ(view.max_batch_size, 7);
  CHECK_EQ(view.max_num_tokens, 99);
  CHECK_EQ(view.max_queue_size, 1000);
  CHECK_EQ(view.policy, ENGINERY_POLICY_MAX_UTILIZATION);
  CHECK_EQ(view.max_chunk_tokens, 33);
  CHECK_EQ(view.enable_chunked_context, 0);
  CHECK_EQ(view.enable_block_reuse, 0);
  CHECK_EQ(view.num_threads, 3);
  CHECK_EQ(view.pin_threads, 1);
  CHECK_EQ(std::string(view.isa), "portable");
  CHECK_EQ(view.watchdog_timeout_ms, 60'000);
  CHECK_EQ(std::string(view.watchdog_dir), "/var/lib/enginery");
  CHECK(config.options.log_requests == LogFormat::kJson);
}

TEST(every_problem_is_listed) {
  const std::string parameters =
      Parameter("max_attention_window_size", "0") + "," + Parameter("max_batch_size", "many") +
      "," + Parameter("num_threads", "4294967296") + "," + Parameter("max_num_tokens", "-1") + "," +
      Parameter("batch_scheduler_policy", "fastest") + "," + Parameter("pin_threads", "perhaps") +
      "," + Parameter("tokenizer_dir", "/t") + "," + Parameter("log_requests", "true");
  std::string config = Config(parameters, R"(,"instance_group":[{"count":2,"kind":"KIND_GPU"}])");
  config = Changed(config, "\"name\":\"top_k\"", "\"name\":\"topk\"");
  config =
      Changed(config, "seed\",\"data_type\":\"TYPE_UINT64", "seed\",\"data_type\":\"TYPE_INT32");
  config = Changed(config, "\"max_batch_size\":0", "\"max_batch_size\":8");
  for (const char* part :
       {"input topk: the model has no such tensor", "input top_k: is missing",
        "input seed: is TYPE_INT32 [1], must be TYPE_UINT64 [1]", "max_batch_size = 8: must be 0",
        "instance_group count = 2: must be 1", "KIND_GPU: must be KIND_CPU",
        "max_attention_window_size = '0': there is no such parameter",
        "max_batch_size = 'many': must be an integer", "num_threads = '4294967296': must be 0 ..",
        "max_num_tokens = '-1': must be 0 ..", "'fastest': must be one of guaranteed_no_evict",
        "pin_threads = 'perhaps': must be true or false",
        "log_requests = 'true': must be one of text, json",
        "tokenizer_dir = '/t': only the Python backend reads it", "engine_dir: is missing"}) {
    CHECK_THROWS_WITH(ReadModelConfig(config), Error, part);
  }
}

std::string TrtllmConfig(const std::string& parameters) {
  return StrCat("{\"name\":\"m\",\"max_batch_size\":8,\"input\":[", Tensors(trtllm::Inputs()),
                "],\"output\":[", Tensors(trtllm::Outputs()), "],\"parameters\":{", parameters,
                "}}");
}

TEST(layout_is_that_of_the_inputs) {
  const ModelConfig own = ReadModelConfig(Config(kEngine));
  CHECK(own.layout->inputs.data() == Inputs().data());
  const std::string parameters = kEngine + "," + Parameter("exclude_input_in_output", "True");
  const ModelConfig other = ReadModelConfig(TrtllmConfig(parameters));
  CHECK(other.layout->inputs.data() == trtllm::Inputs().data());
  CHECK(other.excludes_input);
  CHECK(!ReadModelConfig(TrtllmConfig(kEngine)).excludes_input);
  CHECK_THROWS_WITH(ReadModelConfig(Config(parameters)), Error,
                    "exclude_input_in_output = 'True': there is no such parameter");
}

TEST(problems_are_those_of_the_layout) {
  std::string config =
      TrtllmConfig(kEngine + "," + Parameter("exclude_input_in_output", "perhaps"));
  config = Changed(config, "\"max_batch_size\":8", "\"max_batch_size\":0");
  config = Changed(config, "\"dims\":[2, -1]", "\"dims\":[-1]");
  config = Changed(config, "\"name\":\"input_lengths\"", "\"name\":\"lengths\"");
  for (const char* part :
       {"input lengths: the model has no such tensor", "input input_lengths: is missing",
        "input stop_words_list: is TYPE_INT32 [-1], must be TYPE_INT32 [2, -1]",
        "max_batch_size = 0: must be at least 1",
        "exclude_input_in_output = 'perhaps': must be true or false"}) {
    CHECK_THROWS_WITH(ReadModelConfig(config), Error, part);
  }
}

TEST(json_is_read_strictly) {
  const Json json = ParseJson(R"( {"a": [1, -2.5e3, true, null], "b": "\ud83d\ude00\n\u0041"} )");
  REQUIRE(json.Find("a") != nullptr);
  CHECK_EQ(json.Find("a")->items[1].text, "-2.5e3");
  CHECK(json.Find("a")->items[2].truth);
  CHECK_EQ(json.Find("b")->text, "\xF0\x9F\x98\x80\nA");
  for (const char* bad : {"",
                          " ",
                          "{",
                          "[1,]",
                          "{\"a\":1,}",
                          "01",
                          "1.",
                          "-",
                          "+1",
                          "1e",
                          ".5",
                          "nul",
                          "NaN",
                          "\"\t\"",
                          "\"\\x\"",
                          "\"\\u12\"",
                          "\"\\ud800\"",
                          "\"\\ud800\\u0041\"",
                          "\"\\udc00\"",
                          "\"a",
                          "1 2",
                          "\xFF",
                          "{\"a\":1,\"a\":2}",
                          "{a:1}",
                          "'a'",
                          "[1 2]"}) {
    CHECK_THROWS(ParseJson(bad), Error);
  }
}

}  // namespace
}  // namespace enginery::triton
