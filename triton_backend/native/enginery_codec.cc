// SPDX-License-Identifier: Apache-2.0
#include "enginery_codec.h"

#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/str_cat.h"
#include "request_reader.h"

namespace enginery::triton {
namespace {

// A model that answers each request once has nowhere to put what comes before, or besides.
void CheckAnswersOnce(const enginery_request& fields) {
  constexpr std::string_view kFix =
      "the model answers each request once; set decoupled: true in model_transaction_policy";
  if (fields.streaming != 0) {
    throw Error(ENGINERY_INVALID_ARGUMENT, StrCat("stream = true: ", kFix, ", or leave it out"));
  }
  if (fields.num_return_sequences > 1) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                StrCat("num_return_sequences = ", fields.num_return_sequences, ": ", kFix,
                       ", or send as many requests"));
  }
}

class EngineryCodec : public Codec {
 public:
  explicit EngineryCodec(bool is_decoupled) : is_decoupled_(is_decoupled) {}

  ModelRequest Read(const IncomingRequest& request) const override {
    CheckParameters(request.parameters);
    GenerationRequest read = ReadRequest(request.inputs);
    if (!is_decoupled_) CheckAnswersOnce(read.fields);
    std::vector<int32_t> repeated;
    if (read.responses.repeats_prompt) repeated = read.prompt_token_ids;
    auto writer = std::make_unique<ResponseWriter>(read.responses, std::move(repeated));
    ModelRequest result;
    result.rows.push_back({std::move(read), std::move(writer)});
    return result;
  }

 private:
  const bool is_decoupled_;
};

}  // namespace

std::unique_ptr<Codec> MakeEngineryCodec(const ModelConfig& config, const EngineFacts&) {
  return std::make_unique<EngineryCodec>(config.is_decoupled);
}

}  // namespace enginery::triton
