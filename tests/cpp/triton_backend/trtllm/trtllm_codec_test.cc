// SPDX-License-Identifier: Apache-2.0
//
// The native backend's reader of `tensorrt_llm`: what clients send is read row by row, or refused
// in the words of the Python backend, whatever its shapes, sizes and bytes claim.
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "native/trtllm/codec.h"
#include "native/trtllm/tensors.h"
#include "support/input_tensors.h"

namespace enginery::triton {
namespace {

// The text of six tokens: "a", "b", "<end>", which is special, the two bytes of an e with an acute
// accent, and one without text.
constexpr uint32_t kOffsets[] = {0, 1, 2, 7, 8, 9, 9};
constexpr uint8_t kFlags[] = {0, 0, 1, 0, 0, 0};
constexpr int32_t kEnd = 2;
const EngineFacts kEngine{.vocab_size = 6,
                          .tokens_per_block = 16,
                          .eos_token_ids = {kEnd},
                          .token_bytes = TokenBytes(kOffsets, kFlags, "ab<end>\xC3\xA9", 6)};

// The same input of a batch: one row unless `num_rows` says otherwise.
Tensor InRows(Tensor tensor, int64_t num_rows = 1) {
  tensor.shape[0] /= num_rows;
  tensor.shape.insert(tensor.shape.begin(), num_rows);
  return tensor;
}

Tensor Words(std::string name, const std::vector<int32_t>& tokens,
             const std::vector<int32_t>& ends) {
  std::vector<int32_t> both = tokens;
  both.insert(both.end(), ends.begin(), ends.end());
  Tensor tensor = Ids(std::move(name), both);
  tensor.shape = {1, 2, static_cast<int64_t>(tokens.size())};
  return tensor;
}

using Tensors = std::vector<Tensor>;

// A prompt of three tokens, of which two count, and `more`.
Tensors Request(const Tensors& more = {}) {
  Tensors tensors = {InRows(Ids("input_ids", {0, 1, 5})), InRows(Ids("input_lengths", {2})),
                     InRows(Ids("request_output_len", {7}))};
  tensors.insert(tensors.end(), more.begin(), more.end());
  return tensors;
}

struct Sent {
  Tensors tensors;
  std::string id = "";
  std::vector<RequestParameter> parameters = {};
  bool is_decoupled = true;
};

ModelRequest Read(const Sent& sent) {
  ModelConfig config;
  config.is_decoupled = sent.is_decoupled;
  return trtllm::MakeCodec(config, kEngine)->Read({sent.id, sent.parameters, Views(sent.tensors)});
}

GenerationRequest ReadOne(const Tensors& more) {
  ModelRequest read = Read({Request(more)});
  REQUIRE_EQ(read.rows.size(), 1);
  return std::move(read.rows[0].request);
}

void CheckRefused(const Sent& sent, const std::string& part) {
  CheckThrows([&] { Read(sent); }, part);
}

std::string FirstStop(const enginery_request& view) {
  return {view.stop_strings[0].data, view.stop_strings[0].bytes};
}

TEST(defaults) {
  GenerationRequest request = ReadOne({});
  const enginery_request view = request.View();
  REQUIRE_EQ(view.num_prompt_tokens, 2);
  CHECK_EQ(view.prompt_token_ids[1], 1);
  CHECK_EQ(view.max_tokens, 7);
  CHECK_EQ(view.top_k, 1);  // greedy: neither top-k nor top-p is given
  CHECK_EQ(view.top_p, 1.0f);
  CHECK_EQ(view.streaming, 0);
  CHECK_EQ(view.ignore_eos, 0);
  CHECK_EQ(view.num_logprobs, -1);
  CHECK_EQ(view.include_stop, 1);
  CHECK_EQ(view.show_special_tokens, 1);
  CHECK_EQ(view.num_stop_strings + view.num_stop_token_ids + view.num_bad_token_sequences, 0);
  CHECK_EQ(view.num_logit_bias, 0);
}

TEST(every_option) {
  GenerationRequest request = ReadOne({
      InRows(Ids("num_return_sequences", {3})),
      InRows(Ids("end_id", {4})),
      InRows(Ids("pad_id", {0})),
      InRows(Real("temperature", 0.5f)),
      InRows(Ids("runtime_top_k", {11})),
      InRows(Real("runtime_top_p", 0.25f)),
      InRows(Real("repetition_penalty", 1.5f)),
      InRows(Ids("min_tokens", {2})),
      InRows(Real("presence_penalty", -0.5f)),
      InRows(Real("frequency_penalty", 0.75f)),
      InRows(Numbers<uint64_t>("seed", DataType::kUint64, {UINT64_MAX})),
      InRows(Numbers<float>("embedding_bias", DataType::kFp32, {0, 0, 0, 2.5f, 0, -1})),
      Words("bad_words_list", {0, 1, 4}, {2, 3, -1}),
      Words("stop_words_list", {0, 1, kEnd, 3}, {2, 3, 4, -1}),
      InRows(Bool("return_log_probs", 1)),
      InRows(Bool("return_context_logits", 1)),
      InRows(Bool("return_generation_logits", 1)),
      InRows(Bool("streaming", 1)),
      InRows(Bool("stop", 0)),
  });
  const enginery_request view = request.View();
  CHECK_EQ(view.num_return_sequences, 3);
  CHECK_EQ(view.temperature, 0.5f);
  CHECK_EQ(view.top_k, 11);
  CHECK_EQ(view.top_p, 0.25f);
  CHECK_EQ(view.repetition_penalty, 1.5f);
  CHECK_EQ(view.min_tokens, 2);
  CHECK_EQ(view.presence_penalty, -0.5f);
  CHECK_EQ(view.frequency_penalty, 0.75f);
  CHECK_EQ(view.seed, UINT64_MAX);
  CHECK_EQ(view.num_logprobs, 0);
  CHECK_EQ(view.return_context_logits, 1);
  CHECK_EQ(view.return_generation_logits, 1);
  CHECK_EQ(view.streaming, 1);
  CHECK_EQ(view.ignore_eos, 1);  // end_id takes the place of the engine's own
  REQUIRE_EQ(view.num_logit_bias, 2);
  CHECK_EQ(view.logit_bias[0].token_id, 3);
  CHECK_EQ(view.logit_bias[0].bias, 2.5f);
  CHECK_EQ(view.logit_bias[1].token_id, 5);
  REQUIRE_EQ(view.num_bad_token_sequences, 2);
  CHECK_EQ(view.bad_token_sequences[0].num_tokens, 2);
  CHECK_EQ(view.bad_token_sequences[1].token_ids[0], 4);
  REQUIRE_EQ(view.num_stop_strings, 1);
  CHECK_EQ(FirstStop(view), "ab");
  // What is special, what is half a character, and the end token.
  REQUIRE_EQ(view.num_stop_token_ids, 3);
  CHECK_EQ(view.stop_token_ids[0], kEnd);
  CHECK_EQ(view.stop_token_ids[1], 3);
  CHECK_EQ(view.stop_token_ids[2], 4);
}

TEST(top_k_and_top_p_are_read_as_there) {
  const auto top = [](const Tensors& more) {
    const enginery_request view = ReadOne(more).View();
    return std::pair(view.top_k, view.top_p);
  };
  const Tensor no_k = InRows(Ids("runtime_top_k", {0}));
  const Tensor k = InRows(Ids("runtime_top_k", {5}));
  const Tensor no_p = InRows(Real("runtime_top_p", 0));
  const Tensor p = InRows(Real("runtime_top_p", 0.5f));
  CHECK(top({no_k, no_p}) == std::pair(1, 1.0f));
  CHECK(top({k, no_p}) == std::pair(5, 1.0f));
  CHECK(top({k, p}) == std::pair(5, 0.5f));
  CHECK(top({no_k, p}) == std::pair(0, 0.5f));
  CHECK(top({p}) == std::pair(0, 0.5f));
}

TEST(word_of_characters_of_several_tokens) {
  CHECK_EQ(FirstStop(ReadOne({Words("stop_words_list", {3, 4}, {2, -1})}).View()), "\xC3\xA9");
}

TEST(rows_are_read_apart) {
  ModelRequest read = Read(
      {{InRows(Ids("input_ids", {0, 1, 5, 4, 4, 4}), 2), InRows(Ids("input_lengths", {1, 3}), 2),
        InRows(Ids("request_output_len", {7, 8}), 2)}});
  REQUIRE_EQ(read.rows.size(), 2);
  CHECK(read.rows[0].request.prompt_token_ids == std::vector<int32_t>({0}));
  CHECK(read.rows[1].request.prompt_token_ids == std::vector<int32_t>({4, 4, 4}));
  CHECK_EQ(read.rows[1].request.View().max_tokens, 8);
}

TEST(names_and_stop) {
  const ModelRequest read = Read({Request(), "a name", {{"enginery_ticket", std::string("t")}}});
  CHECK(!read.is_stop);
  CHECK_EQ(read.names.triton_id, "a name");
  CHECK_EQ(read.names.ticket, "t");
  CHECK(read.names.AreAskedFor({"a name", ""}));
  CHECK(!read.names.AreAskedFor({"a name", "another"}));
  const Tensors stop = Request({InRows(Bool("stop", 1))});
  CHECK(Read({stop, "a name"}).is_stop);
  CHECK(Read({stop, "a name"}).rows.empty());
  CheckRefused({stop}, "stop = True: the request has no id; give that of another");
}

TEST(refused_inputs_are_named_as_in_python) {
  const auto real = [](std::string name, float value) {
    return InRows(Real(std::move(name), value));
  };
  CheckRefused({Request({InRows(Ids("beam_width", {2}))})},
               "not supported: beam_width = 2: beam search is not built");
  CheckRefused({Request({real("len_penalty", 0.5f)})},
               "len_penalty (length_penalty of the ensemble) = 0.5: beam search");
  CheckRefused({Request({real("len_penalty", 2)})}, "of the ensemble) = 2.0: ");
  CheckRefused({Request({real("len_penalty", 0.1f)})}, "= 0.10000000149011612: ");
  CheckRefused({Request({real("len_penalty", 1e-5f)})}, "= 9.999999747378752e-06: ");
  CheckRefused({Request({real("len_penalty", 1e20f)})}, "= 1.0000000200408773e+20: ");
  CheckRefused({Request({InRows(Bool("early_stopping", 1))})}, "early_stopping = True: ");
  CheckRefused({Request({InRows(Texts("guided_decoding_guide_type", {"json"}))})},
               "guided_decoding_guide_type = 'json': constrained decoding is not built");
  CheckRefused({Request({InRows(Ids("context_phase_params", {1, 2}))})}, "is of INT32; must be");
  CheckRefused(
      {Request({InRows(Numbers<uint8_t>("context_phase_params", DataType::kUint8, {1, 2}))})},
      "context_phase_params = [1, 2]: prefill and decode run in one place");
  CheckRefused({Request({InRows(Numbers<uint16_t>("lora_weights", DataType::kFp16,
                                                  {0x3C00, 0xC000, 0x0001, 0x7C00}))})},
               "lora_weights = [1.0, -2.0, 5.960464477539063e-08, inf]: adapters");
  CheckRefused({Request({InRows(Ids("beam_width", {2})), InRows(Ids("prompt_vocab_size", {1}))})},
               "not supported: 2 problems\n  - beam_width = 2: ");
}

TEST(long_values_are_cut) {
  const std::vector<int32_t> many(100'000, 7);
  CheckRefused({Request({InRows(Ids("draft_input_ids", many))})},
               "draft_input_ids = [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,...: "
               "speculative");
  std::string accents;
  for (int i = 0; i < 100; ++i) accents += "\xC3\xA9";
  CheckRefused({Request({InRows(Texts("guided_decoding_guide", {accents}))})},
               accents.substr(0, 2 * 59) + "...: constrained");
}

TEST(refused_inputs_that_ask_for_nothing_are_taken) {
  for (const UnsupportedOption& option : trtllm::RefusedInputs()) {
    const TensorSpec* const spec = FindTensor(trtllm::Inputs(), option.name);
    REQUIRE(spec != nullptr);
    Tensor tensor{std::string(option.name), spec->type, {1, 0}, ""};
    CHECK_EQ(Read({Request({tensor})}).rows.size(), 1);
    if (option.neutral.empty()) continue;
    const std::string neutral(option.neutral);
    if (spec->type == DataType::kInt32) tensor = Ids(tensor.name, {std::stoi(neutral)});
    if (spec->type == DataType::kFp32) tensor = Real(tensor.name, std::stof(neutral));
    if (spec->type == DataType::kBool) tensor = Bool(tensor.name, 0);
    if (spec->type == DataType::kString) tensor = Texts(tensor.name, {""});
    if (tensor.data.empty()) {
      tensor = Numbers<uint64_t>(tensor.name, spec->type, {std::stoull(neutral)});
    }
    CHECK_EQ(Read({Request({InRows(tensor)})}).rows.size(), 1);
  }
}

TEST(parameters) {
  const auto parameter = [](std::string name) {
    return Sent{Request(), "", {{std::move(name), true}}};
  };
  CHECK_EQ(Read(parameter("Streaming")).rows.size(), 1);
  CHECK_EQ(Read(parameter("triton_enable_empty_final_response")).rows.size(), 1);
  CheckRefused(parameter("tmeperature"),
               "request: tmeperature: there is no such option; did you mean temperature?");
  CheckRefused(parameter("zzz"), "request: zzz: there is no such option");
}

TEST(one_response_a_request) {
  const auto refused = [](const Tensors& more, const std::string& part) {
    CheckRefused({.tensors = Request(more), .is_decoupled = false}, part);
  };
  refused(
      {InRows(Bool("streaming", 1))},
      "the model is served with decoupled_mode false, one response a request: streaming = True");
  refused({InRows(Ids("num_return_sequences", {2}))}, "num_return_sequences: must be 1");
  CHECK_EQ(Read({.tensors = Request(), .is_decoupled = false}).rows.size(), 1);
}

TEST(values_are_refused_by_name) {
  const auto refused = [](const Tensors& more, const std::string& part) {
    CheckRefused({Request(more)}, part);
  };
  CheckRefused({{}}, "input_ids: is missing; it is the prompt");
  CheckRefused({{InRows(Ids("input_ids", {1}))}}, "input_lengths: is missing");
  CheckRefused({{InRows(Ids("input_ids", {1})), InRows(Ids("input_lengths", {2}))}},
               "input_lengths = 2: input_ids has 1 tokens in the row");
  CheckRefused({{InRows(Ids("input_ids", {1})), InRows(Ids("input_lengths", {-1}))}},
               "input_lengths = -1: ");
  refused({InRows(Ids("runtime_top_k", {-1}))}, "top_k = -1: must be");
  refused({InRows(Ids("num_return_sequences", {0}))}, "n = 0: must be an integer >= 1");
  refused({InRows(Numbers<float>("embedding_bias", DataType::kFp32, {1, 2, 3}))},
          "embedding_bias: has 3 values; the vocabulary has 6");
  refused({Words("stop_words_list", {1, 1}, {1, 1})},
          "stop_words_list: ends [1, 1]: must grow, from 1 at least to 2 at most");
  refused({Words("bad_words_list", {1, 1}, {-1, 1})},
          "bad_words_list: ends [-1, 1]: only padding may follow a -1");
  refused({Words("bad_words_list", {1, 1}, {3, -1})}, "bad_words_list: ends [3, -1]: must grow");
  refused({InRows(Ids("bad_words_list", {1, 1}))}, "bad_words_list: has shape [2]; must be [2, n]");
  refused({Words("stop_words_list", {6, 0}, {1, -1})},
          "stop_words_list: token id 6: the vocabulary has 6");
  refused({Words("stop_words_list", {3, 0}, {2, -1})},
          "stop_words_list: [3, 0]: these tokens together are no text");
}

TEST(hostile_tensors) {
  const auto refused = [](const Tensor& tensor, const std::string& part) {
    CheckRefused({Request({tensor})}, part);
  };
  refused(Ids("seed", {1}), "seed: is of INT32; must be UINT64");
  refused(InRows(Ids("nothing", {1})), "nothing: the model has no such input");
  refused(InRows(Ids("input_lengths", {1})), "input_lengths: is given twice");
  refused(Tensor{"end_id", DataType::kInt32, {}, ""}, "end_id: has shape []; input_ids has 1");
  refused(InRows(Ids("end_id", {1, 2}), 2), "end_id: has shape [2, 1]; input_ids has 1 rows");
  refused(InRows(Ids("end_id", {1, 2})), "end_id: has 2 values; give one");
  refused(Tensor{"end_id", DataType::kInt32, {1, -1}, "xxxx"}, "end_id: a dimension is -1");
  refused(Tensor{"end_id", DataType::kInt32, {1, INT64_MAX}, "xxxx"}, "end_id: has 4 bytes for");
  refused(InRows(Bool("streaming", 7)), "streaming: the byte 7 is no BOOL");
  CheckRefused({{Tensor{"input_ids", DataType::kInt32, {0, 1}, ""}}}, "input_ids: has no rows");
}

// Shapes, sizes and bytes at random: each request is read or refused, whatever they claim.
TEST(random_requests_are_read_or_refused) {
  std::mt19937_64 draw(20260714);
  const auto below = [&draw](uint64_t bound) { return draw() % bound; };
  for (int round = 0; round < 4000; ++round) {
    Tensors tensors = below(4) == 0 ? Tensors() : Request();
    for (uint64_t i = below(4); i > 0; --i) {
      const TensorSpec& spec = trtllm::Inputs()[below(trtllm::Inputs().size())];
      Tensor tensor{spec.name, below(8) == 0 ? DataType::kFp16 : spec.type, {}, ""};
      for (uint64_t dim = below(4); dim > 0; --dim) {
        tensor.shape.push_back(static_cast<int64_t>(below(4)) - (below(16) == 0 ? 1 : 0));
      }
      for (uint64_t byte = below(40); byte > 0; --byte) {
        tensor.data += static_cast<char>(below(2) == 0 ? 0 : draw());
      }
      tensors.push_back(std::move(tensor));
    }
    try {
      CHECK(Read({tensors, "id"}).rows.size() <= 3);
    } catch (const Error& error) {
      CHECK_EQ(error.status(), ENGINERY_INVALID_ARGUMENT);
    }
  }
}

}  // namespace
}  // namespace enginery::triton
