// SPDX-License-Identifier: Apache-2.0
//
// The native backend's request reader: what clients send is read, or refused with the input, what
// it is and what is accepted, whatever its shapes, sizes and bytes claim.
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "check.h"
#include "native/request_parameters.h"
#include "native/request_reader.h"
#include "support/input_tensors.h"

namespace enginery::triton {
namespace {

GenerationRequest Read(const std::vector<Tensor>& tensors) { return ReadRequest(Views(tensors)); }

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const Tensor kPrompt = Ids("input_ids", {5, 6, 7});

void CheckRefused(const std::vector<Tensor>& tensors, const std::string& part) {
  CheckThrows([&] { Read(tensors); }, part);
}

TEST(defaults) {
  GenerationRequest request = Read({kPrompt});
  enginery_request defaults;
  enginery_request_init(&defaults, sizeof defaults);
  const enginery_request view = request.View();
  REQUIRE_EQ(view.num_prompt_tokens, 3);
  CHECK_EQ(view.prompt_token_ids[2], 7);
  CHECK_EQ(view.max_tokens, defaults.max_tokens);
  CHECK_EQ(view.temperature, defaults.temperature);
  CHECK_EQ(view.num_logprobs, -1);
  CHECK_EQ(view.streaming, 0);
  CHECK_EQ(view.ignore_eos, 0);
  CHECK_EQ(view.num_stop_token_ids, 0);
  CHECK(!request.responses.repeats_prompt);
}

TEST(every_option) {
  GenerationRequest request = Read({
      kPrompt,
      Ids("max_tokens", {7}),
      Ids("min_tokens", {2}),
      Ids("num_return_sequences", {3}),
      Real("temperature", 0.5f),
      Ids("top_k", {11}),
      Real("top_p", 0.25f),
      Real("min_p", 0.125f),
      Numbers<uint64_t>("seed", DataType::kUint64, {UINT64_MAX}),
      Real("repetition_penalty", 1.5f),
      Real("presence_penalty", -0.5f),
      Real("frequency_penalty", 0.75f),
      Texts("stop_words", {"x", "\xC3\xA9"}),
      Texts("bad_words", {}),
      Ids("stop_token_ids", {3, 4}),
      Ids("end_id", {9}),
      Bool("ignore_eos", 0),
      Ids("logit_bias_ids", {300, 0}),
      Numbers<float>("logit_bias_values", DataType::kFp32, {-kInfinity, 1.5f}),
      Ids("logprobs", {4}),
      Bool("return_log_probs", 1),
      Ids("prompt_logprobs", {2}),
      Bool("include_stop_token", 1),
      Bool("return_perf_metrics", 1),
      Bool("exclude_input_in_output", 0),
      Bool("stream", 1),
      Ids("priority", {-3}),
      Numbers<int64_t>("timeout_ms", DataType::kInt64, {int64_t{1} << 40}),
  });
  const enginery_request view = request.View();
  CHECK_EQ(view.max_tokens, 7);
  CHECK_EQ(view.min_tokens, 2);
  CHECK_EQ(view.num_return_sequences, 3);
  CHECK_EQ(view.temperature, 0.5f);
  CHECK_EQ(view.top_k, 11);
  CHECK_EQ(view.top_p, 0.25f);
  CHECK_EQ(view.min_p, 0.125f);
  CHECK_EQ(view.seed, UINT64_MAX);
  CHECK_EQ(view.repetition_penalty, 1.5f);
  CHECK_EQ(view.presence_penalty, -0.5f);
  CHECK_EQ(view.frequency_penalty, 0.75f);
  REQUIRE_EQ(view.num_stop_strings, 2);
  CHECK_EQ(std::string(view.stop_strings[1].data, view.stop_strings[1].bytes), "\xC3\xA9");
  REQUIRE_EQ(view.num_stop_token_ids, 3);
  CHECK_EQ(view.stop_token_ids[2], 9);
  CHECK_EQ(view.ignore_eos, 1);  // end_id takes the place of the engine's own
  CHECK_EQ(view.num_logprobs, 4);
  CHECK_EQ(view.return_prompt_logprobs, 1);
  CHECK_EQ(view.num_prompt_logprobs, 2);
  CHECK_EQ(view.include_stop, 2);
  REQUIRE_EQ(view.num_logit_bias, 2);
  CHECK_EQ(view.logit_bias[0].token_id, 0);
  CHECK_EQ(view.logit_bias[0].bias, 1.5f);
  CHECK_EQ(view.logit_bias[1].token_id, 300);
  CHECK_EQ(view.logit_bias[1].bias, -kInfinity);
  CHECK_EQ(view.streaming, 1);
  CHECK_EQ(view.priority, -3);
  CHECK_EQ(view.timeout_ms, int64_t{1} << 40);
  CHECK(request.responses.repeats_prompt);
  CHECK(request.responses.returns_perf_metrics);
  CHECK(request.responses.returns_log_probs);
  CHECK(request.responses.returns_top_tokens);
  CHECK(request.responses.returns_prompt_top_tokens);
}

TEST(log_probs_and_bias_as_json) {
  const auto read = [](const std::string& text, uint8_t return_log_probs) {
    return Read({kPrompt, Texts("sampling_parameters", {text}),
                 Bool("return_log_probs", return_log_probs)});
  };
  GenerationRequest asked =
      read(R"({"logprobs": 3, "prompt_logprobs": 0, "logit_bias": {"7": -100, "0": 0.5}})", 0);
  const enginery_request view = asked.View();
  CHECK_EQ(view.num_logprobs, 3);
  CHECK_EQ(view.return_prompt_logprobs, 1);
  CHECK_EQ(view.num_prompt_logprobs, 0);
  CHECK(!asked.responses.returns_prompt_top_tokens);
  REQUIRE_EQ(view.num_logit_bias, 2);
  CHECK_EQ(view.logit_bias[1].bias, -100.0f);
  const std::string off = R"({"logprobs": null, "prompt_logprobs": null, "logit_bias": null})";
  GenerationRequest plain = read(off, 0);
  CHECK_EQ(plain.View().num_logprobs, -1);
  CHECK_EQ(plain.View().return_prompt_logprobs, 0);
  CHECK_EQ(plain.View().num_logit_bias, 0);
  GenerationRequest drawn = read(off, 1);
  CHECK_EQ(drawn.View().num_logprobs, 0);
  CHECK(!drawn.responses.returns_top_tokens);
}

TEST(options_as_json) {
  GenerationRequest request =
      Read({kPrompt, Ids("top_k", {4}),
            Texts("sampling_parameters", {R"({"temperature": 5e-1, "stop": "\u00e9", "n": 2,
                                   "seed": 18446744073709551615, "max_tokens": 9, "end_id": null,
                                   "stop_token_ids": [1, 2], "ignore_eos": true})"})});
  const enginery_request view = request.View();
  CHECK_EQ(view.temperature, 0.5f);
  CHECK_EQ(view.top_k, 4);
  CHECK_EQ(view.num_return_sequences, 2);
  CHECK_EQ(view.seed, UINT64_MAX);
  CHECK_EQ(view.max_tokens, 9);
  CHECK_EQ(view.ignore_eos, 1);
  CHECK_EQ(view.num_stop_token_ids, 2);
  REQUIRE_EQ(view.num_stop_strings, 1);
  CHECK_EQ(std::string(view.stop_strings[0].data, view.stop_strings[0].bytes), "\xC3\xA9");
}

TEST(both_names_of_one_thing) {
  CHECK_EQ(Read({kPrompt, Ids("request_output_len", {9})}).fields.max_tokens, 9);
  CHECK_EQ(
      Read({kPrompt, Ids("max_tokens", {9}), Ids("request_output_len", {9})}).fields.max_tokens, 9);
  CHECK_EQ(Read({kPrompt, Bool("streaming", 1)}).fields.streaming, 1);
  CheckRefused({kPrompt, Ids("max_tokens", {3}), Ids("request_output_len", {4})},
               "max_tokens = 3, request_output_len = 4: two names of one thing");
}

TEST(values_are_refused_by_name) {
  const auto json = [](const std::string& text) {
    return std::vector<Tensor>{kPrompt, Texts("sampling_parameters", {text})};
  };
  CheckRefused({}, "text_input, input_ids: neither is given");
  CheckRefused({Texts("text_input", {"x"})}, "text_input: the native backend has no tokenizer");
  CheckRefused({Texts("text_input", {"x"}), kPrompt}, "both are given");
  CheckRefused({kPrompt, Texts("bad_words", {"x"})}, "bad_words = ['x']: words need a tokenizer");
  CheckRefused({kPrompt, Ids("max_tokens", {-1})}, "max_tokens = -1: must be an integer >= 0");
  CheckRefused({kPrompt, Ids("logprobs", {21})}, "logprobs = 21: must be null or an integer in 0");
  CheckRefused({kPrompt, Ids("prompt_logprobs", {-1})}, "prompt_logprobs = -1: must be null or");
  CheckRefused({kPrompt, Ids("logit_bias_ids", {1, 2})},
               "logit_bias_ids, logit_bias_values: have 2 and 0 values; give one value per token");
  CheckRefused({kPrompt, Real("logit_bias_values", 1)},
               "logit_bias_ids, logit_bias_values: have 0 and 1 values");
  CheckRefused({kPrompt, Ids("logit_bias_ids", {5, 5}),
                Numbers<float>("logit_bias_values", DataType::kFp32, {1, 2})},
               "logit_bias_ids: has a token id twice");
  CheckRefused(json(R"({"logit_bias": [1]})"), "logit_bias = [1]: must be an object that maps");
  CheckRefused(json(R"({"logit_bias": {"05": 1}})"), "'05': an object must map token ids to num");
  CheckRefused(json(R"({"logit_bias": {"-5": 1}})"), "'-5': an object must map token ids");
  CheckRefused(json(R"({"logit_bias": {"5": "1"}})"), "'5': an object must map token ids to num");
  CheckRefused(json(R"({"logit_bias": {"5": 1e300}})"), "5 = 1e+300: must be a finite number");
  CheckRefused(json(R"({"temperature": {"5": 1}})"), "temperature = an object of 1 numbers: must");
  CheckRefused(
      {kPrompt, Ids("logit_bias_ids", {}), Numbers<float>("logit_bias_values", DataType::kFp32, {}),
       Texts("sampling_parameters", {R"({"logit_bias": {"5": 1}})"})},
      "logit_bias: is given by an input too");
  CheckRefused({kPrompt, Ids("top_k", {-1})}, "top_k = -1: must be");
  CheckRefused({kPrompt, Ids("end_id", {-2})}, "end_id = -2: must be");
  CheckRefused({kPrompt, Real("temperature", std::numeric_limits<float>::quiet_NaN())},
               "temperature = nan: must be a finite number");
  CheckRefused({kPrompt, Texts("stop_words", {"a", ""})}, "stop = ['a', '']: must be texts");
  CheckRefused({kPrompt, Texts("stop_words", {"\xC3"})}, "stop_words: is not UTF-8");
  CheckRefused({kPrompt, Ids("topk", {1})}, "topk: the model has no such input");
  CheckRefused(json("{"), "sampling_parameters: is not JSON: byte 1");
  CheckRefused(json("[1]"), "sampling_parameters: must be a JSON object");
  CheckRefused(json(R"({"n": "2"})"), "n: n = '2': must be an integer");
  CheckRefused(json(R"({"n": 2.0})"), "n = 2: must be an integer");
  CheckRefused(json(R"({"n": 3000000000})"), "n = 3000000000: must be");
  CheckRefused(json(R"({"temperature": 1e400})"), "1e400: is beyond every number type");
  CheckRefused(json(R"({"temperature": 1e300})"), "temperature = 1e+300: must be a finite number");
  CheckRefused(json(R"({"ignore_eos": 1})"), "ignore_eos = 1: must be true or false");
  CheckRefused(json(R"({"stop_token_ids": [1, "2"]})"), "must hold texts or 32-bit integers alone");
  CheckRefused(json(R"({"temperature": 1, "temperature": 2})"), "for the second time");
  CheckRefused(json(R"({"return_context_logits": true})"),
               "there is no such option; there are max");
  CheckRefused({kPrompt, Ids("top_k", {2}), Texts("sampling_parameters", {R"({"top_k": 2})"})},
               "top_k: is given by an input too");
  CheckRefused({kPrompt, Ids("request_output_len", {2}),
                Texts("sampling_parameters", {R"({"max_tokens": 2})"})},
               "max_tokens: is given by an input too");
}

TEST(shapes_and_sizes_are_not_believed) {
  const auto changed = [](Tensor tensor, std::vector<int64_t> shape) {
    tensor.shape = std::move(shape);
    return std::vector<Tensor>{tensor};
  };
  const auto cut = [](Tensor tensor, size_t num_bytes) {
    tensor.data.resize(num_bytes);
    return std::vector<Tensor>{kPrompt, tensor};
  };
  CheckRefused(changed(kPrompt, {4}), "input_ids: has 12 bytes for 4 values of 4 bytes");
  CheckRefused(changed(kPrompt, {-3}), "input_ids: a dimension is -3");
  CheckRefused(changed(kPrompt, {INT64_MAX, INT64_MAX}), "more elements than fit into 64 bits");
  CheckRefused(changed(kPrompt, {int64_t{1} << 62}), "has 12 bytes for 4611686018427387904 values");
  CheckRefused(cut(Ids("top_k", {1}), 3), "top_k: has 3 bytes for 1 values of 4 bytes");
  CheckRefused({kPrompt, Ids("top_k", {1, 2})}, "top_k: has 2 values; give one");
  CheckRefused({kPrompt, Ids("top_k", {})}, "top_k: has 0 values; give one");
  CheckRefused({kPrompt, kPrompt}, "input_ids: is given twice");
  CheckRefused({kPrompt, Bool("stream", 2)}, "stream: the byte 2 is no BOOL");
  CheckRefused({kPrompt, Real("top_k", 1)}, "top_k: is of FP32; must be INT32");
  const Tensor words = Texts("stop_words", {"abc", "de"});
  CheckRefused(cut(words, words.data.size() - 1), "a text of 2 bytes has 1 left");
  CheckRefused(cut(words, 9), "ends within the length of a text");
  CheckRefused(cut(words, 7), "has 1 texts; its shape says 2");
  Tensor longer = words;
  std::memset(longer.data.data(), 0xFF, 4);
  CheckRefused({kPrompt, longer}, "a text of 4294967295 bytes has 9 left");
  // Any shape of one element will do: JSON and gRPC clients differ.
  CHECK_EQ(Read({kPrompt, {"top_k", DataType::kInt32, {1, 1}, std::string(4, '\1')}}).fields.top_k,
           0x01010101);
}

TEST(random_requests_are_read_or_refused) {
  std::mt19937_64 random(20260714);
  const auto below = [&random](size_t limit) { return static_cast<size_t>(random() % limit); };
  const std::vector<Tensor> seeds = {
      kPrompt,
      Ids("top_k", {1}),
      Bool("stream", 1),
      Texts("stop_words", {"abc", "de"}),
      Ids("logit_bias_ids", {1, 2}),
      Numbers<float>("logit_bias_values", DataType::kFp32, {1, 2}),
      Texts("sampling_parameters", {R"({"seed": 1, "stop_token_ids": [1, 2], "top_p": 0.5e0})"}),
  };
  size_t num_read = 0;
  size_t num_refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<Tensor> tensors = seeds;
    Tensor& victim = tensors[below(tensors.size())];
    for (size_t i = below(4); i > 0 && !victim.data.empty(); --i) {
      victim.data[below(victim.data.size())] = static_cast<char>(random());
    }
    if (below(8) == 0) victim.data.resize(below(victim.data.size() + 9));
    if (below(8) == 0) victim.shape.push_back(static_cast<int64_t>(random()));
    if (below(16) == 0) victim.type = static_cast<DataType>(below(7));
    if (below(16) == 0) victim.name = Inputs()[below(Inputs().size())].name;
    try {
      GenerationRequest request = Read(tensors);
      num_read += request.View().num_prompt_tokens > 0 ? 1 : 0;
    } catch (const Error& error) {
      num_refused += error.status() == ENGINERY_INVALID_ARGUMENT ? 1 : 0;
    }
  }
  CHECK_GT(num_read, 1000);
  CHECK_GT(num_refused, 1000);
}

TEST(deep_json_is_refused) {
  const std::string deep = "{\"stop\": " + std::string(100000, '[') + "}";
  CheckRefused({kPrompt, Texts("sampling_parameters", {deep})}, "nested more than 64 levels deep");
}

TEST(parameters_of_no_input_are_refused) {
  CheckParameters({});
  const std::vector<RequestParameter> off = {{"triton_enable_empty_final_response", true},
                                             {"id", std::string("a")},
                                             {"beam_width", int64_t{1}},
                                             {"length_penalty", int64_t{1}},
                                             {"early_stopping", std::monostate()}};
  CheckParameters(off);
  const std::vector<RequestParameter> bad = {{"temprature", int64_t{1}},
                                             {"zzz", std::string("2")},
                                             {"beam_width", int64_t{4}},
                                             {"no_repeat_ngram_size", int64_t{3}}};
  for (const char* part :
       {"request: 4 problems", "temprature: there is no such option; did you mean temperature?",
        "zzz: there is no such option\n", "beam_width = 4: not supported: beam search",
        "no_repeat_ngram_size = 3: not supported: not built"}) {
    CHECK_THROWS_WITH(CheckParameters(bad), Error, part);
  }
  const std::vector<RequestParameter> endless = {{std::string(1 << 20, 'x'), true}};
  CHECK_THROWS_WITH(CheckParameters(endless), Error, "xxx...: there is no such option");
}

}  // namespace
}  // namespace enginery::triton
