// SPDX-License-Identifier: Apache-2.0
//
// What the layouts' models differ in: how requests are read and how responses are written. All that
// lies between, from Triton server to the runtime and back, is the same for them (instance.cc).
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_CODEC_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_CODEC_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/token_bytes.h"
#include "generation_request.h"
#include "input_tensor.h"
#include "request_names.h"
#include "request_parameters.h"
#include "responses.h"

namespace enginery::triton {

// A Triton server request without Triton server's types. Its tensors point into the request.
struct IncomingRequest {
  std::string id;  // what its client calls it; "": nothing
  std::vector<RequestParameter> parameters;
  std::vector<InputTensor> inputs;
};

// A request of the runtime, and what writes the responses to it.
struct Row {
  GenerationRequest request;
  std::unique_ptr<EventWriter> writer;
};

// What a request to the model comes to.
struct ModelRequest {
  std::vector<Row> rows;
  RequestNames names;
  // There are no rows: the requests of other clients that have these names are cancelled.
  bool is_stop = false;
};

// What codecs need of the engine, which outlives them.
struct EngineFacts {
  uint64_t vocab_size = 0;
  uint64_t tokens_per_block = 0;
  std::vector<int32_t> eos_token_ids;
  TokenBytes token_bytes;
};

// Of one model; may be used by any thread.
class Codec {
 public:
  virtual ~Codec() = default;

  // Throws Error (INVALID_ARGUMENT) that names the input or parameter, what it is and what is
  // accepted. What needs the engine's limits is checked by submit.
  virtual ModelRequest Read(const IncomingRequest& request) const = 0;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_CODEC_H_
