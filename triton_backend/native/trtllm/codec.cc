// SPDX-License-Identifier: Apache-2.0
#include "codec.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "refusals.h"
#include "row_reader.h"

namespace enginery::triton::trtllm {
namespace {

std::string ReadTicket(const IncomingRequest& request) {
  const auto found = std::ranges::find(request.parameters, kTicket, &RequestParameter::name);
  if (found == request.parameters.end()) return "";
  const auto* const text = std::get_if<std::string>(&found->value);
  return text == nullptr ? Show(found->value) : *text;
}

bool AsksToStop(const IncomingRequest& request) {
  const auto stop = std::ranges::find(request.inputs, "stop", &InputTensor::name);
  if (stop == request.inputs.end()) return false;
  CheckType(*stop, DataType::kBool);
  return std::ranges::count(ReadNumbers<uint8_t>(*stop), 0) != std::ssize(stop->data);
}

class TrtllmCodec : public Codec {
 public:
  TrtllmCodec(const ModelConfig& config, const EngineFacts& engine)
      : reader_(engine, config.is_decoupled, config.excludes_input) {}

  ModelRequest Read(const IncomingRequest& request) const override {
    RefuseParameters(request.parameters);
    ModelRequest read;
    read.names = {request.id, ReadTicket(request)};
    read.is_stop = AsksToStop(request);
    if (!read.is_stop) {
      read.rows = reader_.Read(request.inputs);
    } else if (read.names.empty()) {
      throw Error(ENGINERY_INVALID_ARGUMENT,
                  "stop = True: the request has no id; give that of another");
    }
    return read;
  }

 private:
  const RowReader reader_;
};

}  // namespace

std::unique_ptr<Codec> MakeCodec(const ModelConfig& config, const EngineFacts& engine) {
  return std::make_unique<TrtllmCodec>(config, engine);
}

}  // namespace enginery::triton::trtllm
